// Reads an AsyncAPI document with the official parser: node check.mjs FILE. Fails on errors and
// warnings; what the parser only recommends is shown.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const text = readFileSync(process.argv[2], "utf8");
const { document, diagnostics } = await new Parser().parse(text);
for (const { severity, message, path } of diagnostics) {
  console.log(`${["error", "warning", "information", "hint"][severity]}: ${message} (${path.join(".")})`);
}
const grave = diagnostics.filter(({ severity }) => severity <= 1);
if (!document || grave.length > 0) process.exit(1);
const channels = document.channels().all().map((channel) => channel.id());
console.log(`channels: ${channels.sort().join(", ")}`);
