// A command line to be run where the service runs, with a button that copies it.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { toast } from "./toast.js";

export function command(text) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast(t("command.copied"));
    } catch {
      toast(t("command.not-copied")); // it takes a page over https, or on this machine
    }
  };
  return h("div", { class: "stack tight", "data-command": true }, h("pre", { class: "bytes", tabindex: 0 }, text), h("div", {}, h("button", { type: "button", onclick: copy }, t("command.copy"))));
}
