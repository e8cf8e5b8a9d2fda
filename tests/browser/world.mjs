// What a journey has around it: the service's APIs, Kafka, and a network to break.

import { createHmac, randomUUID } from "node:crypto";
import { createInterface } from "node:readline";

export class World {
  #config;
  #answers;
  #lastUser = 48_150;

  constructor(config) {
    this.#config = config;
    this.#answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  }

  /** Where the pages are, as the browser reaches them. */
  get pages() {
    return `http://${this.#config.pages}`;
  }

  /** Where the operators' console is. */
  get console() {
    return `http://${this.#config.admin}`;
  }

  /** Where a provider of OpenID Connect is to listen. */
  get provider() {
    return this.#config.provider;
  }

  /** Where a screenshot of a failure belongs. */
  get failures() {
    return this.#config.failures;
  }

  #asking = Promise.resolve();

  /** Asks the harness for what only it can do; one thing after another. */
  #ask(what) {
    const asked = this.#asking.then(async () => {
      process.stdout.write(`${JSON.stringify(what)}\n`);
      const { value, done } = await this.#answers.next();
      if (done) throw new Error("the harness is gone");
      return JSON.parse(value);
    });
    this.#asking = asked.catch(() => {});
    return asked;
  }

  /** Holds everything between the browser and the service back until `resume`. */
  pause = () => this.#ask({ do: "pause" });
  resume = () => this.#ask({ do: "resume" });

  /** The service is away, as far as the browser can see, until `return`. */
  vanish = () => this.#ask({ do: "vanish" });
  return = () => this.#ask({ do: "return" });

  /** The next request that contains `to` is done, and its answer lost. */
  loseAnswer = (to) => this.#ask({ do: "lose answer", to });
  answersLost = () => this.#ask({ do: "answers lost" });

  /** Runs a command of the program, `["back-test", …]`; returns its output. */
  run = (commandArguments) => this.#ask({ do: "run", arguments: commandArguments });

  /** Makes the API seem to have been away for ten minutes, until now. */
  outage = () => this.#ask({ do: "outage" });

  /** Publishes a ride of MX$65 that has just ended; `differs` changes it. */
  ride(user, differs = {}) {
    const ride = {
      ride_id: randomUUID(),
      user_id: user.id,
      completed_at: new Date().toISOString(),
      amount_cents: 6_500,
      currency_code: "MXN",
      country_code: "MX",
      city_id: 4_198,
      service_type: "city",
      ...differs,
    };
    return this.publish(user, JSON.stringify(ride));
  }

  /** Publishes a record of this client to the ride topic, with any content. */
  publish(user, value) {
    return this.#ask({ do: "publish", key: String(user.id), value });
  }

  /** A client's token. */
  token(userId, expiresIn = 3_600) {
    return this.#signed({ sub: String(userId) }, expiresIn);
  }

  /** An operator's token with these scopes, such as `ride-promo:view`. */
  operator(sub, scope = "ride-promo:admin", expiresIn = 3_600) {
    return this.#signed({ sub, scope }, expiresIn);
  }

  #signed(of, expiresIn) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const exp = Math.floor(Date.now() / 1000) + expiresIn;
    const claims = { iss: "ride-promo", aud: "ride-promo", ...of, exp };
    const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
    return `${signed}.${createHmac("sha256", this.#config.secret).update(signed).digest("base64url")}`;
  }

  /** A call to the client API beside the page: another device of the client's. */
  client(user, method, path) {
    return call(`http://${this.#config.api}${path}`, method, user.token);
  }

  admin(method, path, body, type = "application/json") {
    return call(`http://${this.#config.admin}/admin/v1${path}`, method, this.#config.admin_token, body, type);
  }

  /** A promotion under these conditions, in a country that allows it, with its product. */
  async promotion(differs = {}) {
    await this.admin("PUT", "/geo-config/MX", JSON.stringify({ promotions_enabled: true }));
    const product = { name: "First loan", currency_code: "MXN", term_days: 30, terms_url: "https://example.com/terms" };
    await this.admin("PUT", "/products/80", JSON.stringify(product));
    const conditions = {
      target_rides: 20,
      min_amount_cents: 5_000,
      currency_code: "MXN",
      challenge_period: "P14D",
      claim_period: "P7D",
      ...differs,
    };
    const promotion = { promotion_key: `promo-${randomUUID()}`, title: "A loan for your rides", conditions };
    return this.admin("POST", "/promotions", JSON.stringify(promotion));
  }

  /** A new client, without a pre-offer. */
  user() {
    const id = ++this.#lastUser;
    return { id, token: this.token(id) };
  }

  /** Gives a client a pre-offer, for this promotion where there is one. */
  async preOffer(user, promotion, differs = {}) {
    const line = {
      external_id: randomUUID(),
      user_id: user.id,
      segment: "newbie",
      product_id: 80,
      amount_cents: 100_000,
      currency_code: "MXN",
      repayment_rate: "15",
      country_code: "MX",
      valid_until: new Date(Date.now() + 45 * 86_400_000).toISOString(),
      promotion_key: promotion?.promotion_key ?? null,
      ...differs,
    };
    const report = await this.admin("POST", "/pre-offers:import", JSON.stringify(line), "application/x-ndjson");
    if (report.imported !== 1) throw new Error(`not imported: ${JSON.stringify(report)}`);
    return user;
  }

  /** Everything the service knows of a client. */
  known(user) {
    return this.admin("GET", `/users/${user.id}`);
  }
}

async function call(url, method, token, body, type) {
  const headers = { authorization: `Bearer ${token}`, ...(body && { "content-type": type }) };
  const response = await fetch(url, { method, headers, body });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${url} was answered ${response.status}: ${text}`);
  return text ? JSON.parse(text) : null;
}
