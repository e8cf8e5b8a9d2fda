// Signing in to the console by OpenID Connect, at a certified provider.

import assert from "node:assert/strict";

import { journey } from "./browser.mjs";
import { startProvider } from "./provider.mjs";

await journey(async ({ world, desk }) => {
  const issuer = `http://${world.provider}`;
  await startProvider(issuer, { redirect: `${world.console}/console`, audience: "ride-promo-admin", scopes: "ride-promo:view ride-promo:support" });
  const bo = await desk({ also: [issuer] });
  const { page } = bo;
  // The provider's own page asks for a font.
  await page.route("https://fonts.googleapis.com/**", (route) => route.abort());
  await page.goto(`${world.console}/console#/countries`);
  await bo.look("sign-in-provider");
  await bo.button("Sign in with your organisation").click();

  // At the provider: who it is, and the consent.
  await page.getByPlaceholder("Enter any login").fill("bo@example.com");
  await page.getByPlaceholder("and password").fill("a password");
  await page.getByRole("button", { name: "Sign-in" }).click();
  await page.getByRole("button", { name: "Continue" }).click();

  // Back where it began, with the rights that the provider gave, and nothing of the way in the address.
  await bo.sees("countries", "Countries");
  assert.equal(page.url(), `${world.console}/console#/countries`);
  await bo.text("bo@example.com").waitFor();
  assert.deepEqual(await page.locator("nav a[data-page]").allTextContents(), ["Overview", "Promotions", "Clients", "Participations", "Quarantine", "Countries", "Products", "Operations"]);
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!/eyJ|verifier/.test(kept), kept);

  // A response that was not asked for, or is for another request, signs nobody in.
  await page.goto(`${world.console}/console?code=stolen&state=other&iss=${encodeURIComponent(issuer)}`);
  await page.getByText(/^Signing in did not work: /).waitFor();
  assert.equal(page.url(), `${world.console}/console`);
  await page.goto(`${world.console}/console?error=access_denied&error_description=Not+you&iss=${encodeURIComponent(issuer)}`);
  await page.getByText(/^Signing in did not work: /).waitFor();
});
