// Signing in by OpenID Connect: the authorization code flow with PKCE. What is kept across the way to
// the provider and back is no token; the token itself is in memory only.

import * as oauth from "../vendor/oauth4webapi/index.js";

const KEY = "ride-promo.console.oidc";

/** Every right is asked for; the provider grants what the operator has. */
const SCOPE = "openid ride-promo:view ride-promo:edit ride-promo:import ride-promo:support ride-promo:audit";

const meta = (name) => document.querySelector(`meta[name="ride-promo:${name}"]`)?.content || null;

/** Whether a provider is configured. */
export const isConfigured = () => meta("oidc-issuer") !== null;

const client = () => ({ client_id: meta("oidc-client-id") });

const redirectUri = () => `${location.origin}/console`;

/** Plain HTTP is for a provider on this machine; the configuration allows no other. */
const options = (issuer) => ({ [oauth.allowInsecureRequests]: issuer.protocol === "http:" });

async function discover(issuer) {
  const response = await oauth.discoveryRequest(issuer, options(issuer));
  return oauth.processDiscoveryResponse(issuer, response);
}

/** Goes to the provider; what is shown now is shown again afterwards. */
export async function begin() {
  const issuer = new URL(meta("oidc-issuer"));
  const server = await discover(issuer);
  const kept = { verifier: oauth.generateRandomCodeVerifier(), state: oauth.generateRandomState(), nonce: oauth.generateRandomNonce(), hash: location.hash };
  sessionStorage.setItem(KEY, JSON.stringify(kept));
  const address = new URL(server.authorization_endpoint);
  const parameters = {
    client_id: client().client_id,
    redirect_uri: redirectUri(),
    response_type: "code",
    scope: SCOPE,
    state: kept.state,
    nonce: kept.nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(kept.verifier),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  location.assign(address);
}

/** Whether the page was opened by the provider. */
export const isReturn = () => isConfigured() && /[?&](code|error)=/.test(location.search);

/** Exchanges what the provider returned for a token; the address is clean again, whatever comes of it. */
export async function finish() {
  const returned = new URL(location.href);
  const { verifier, state, nonce, hash } = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
  sessionStorage.removeItem(KEY);
  history.replaceState(null, "", location.pathname + (hash ?? ""));
  const issuer = new URL(meta("oidc-issuer"));
  const server = await discover(issuer);
  const parameters = oauth.validateAuthResponse(server, client(), returned, state ?? oauth.expectNoState);
  const response = await oauth.authorizationCodeGrantRequest(server, client(), oauth.None(), parameters, redirectUri(), verifier, options(issuer));
  const { access_token: token } = await oauth.processAuthorizationCodeResponse(server, client(), response, { expectedNonce: nonce, requireIdToken: true });
  return token;
}
