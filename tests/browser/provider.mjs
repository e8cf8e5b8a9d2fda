// A provider of OpenID Connect on the loopback interface, with one public client: the console.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";

// The provider's hints go to the standard output, which is the harness's.
console.info = console.log = console.warn = console.error;

const { default: Provider } = await import("oidc-provider");

const RESOURCE = "https://ride-promo.example/admin";

/**
 * @param {string} issuer
 * @param {{redirect: string, audience: string, scopes: string}} options the rights that everyone gets
 */
export async function startProvider(issuer, { redirect, audience, scopes }) {
  const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
  const provider = new Provider(issuer, {
    clients: [{ client_id: "console", redirect_uris: [redirect], token_endpoint_auth_method: "none", grant_types: ["authorization_code"], response_types: ["code"] }],
    clientBasedCORS: () => true,
    cookies: { keys: ["a key of tests"] },
    features: {
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({ scope: scopes, audience, accessTokenFormat: "jwt", accessTokenTTL: 600, jwt: { sign: { alg: "RS256" } } }),
      },
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    jwks: { keys: [{ ...key, alg: "RS256", use: "sig", kid: "one" }] },
    pkce: { required: () => true },
    scopes: ["openid", "ride-promo:view", "ride-promo:edit", "ride-promo:import", "ride-promo:support", "ride-promo:audit"],
  });
  const server = createServer(provider.callback());
  await new Promise((listening) => server.listen(Number(new URL(issuer).port), "127.0.0.1", listening));
}
