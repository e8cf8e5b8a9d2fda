//! Speaking to the service as its callers do: the client's app, and the admin panel.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::sse::SseStream;

/// The secret that the services under test check tokens with.
pub const SECRET: &str = "a secret for tests, long enough for HS256";

/// Longer than any answer may take, a long poll's 30 s included.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A token for a client, valid for an hour.
pub fn client_token(user_id: i64) -> String {
    token(&client_claims(user_id))
}

/// A token for the admin API, valid for an hour.
pub fn admin_token() -> String {
    let mut claims = client_claims(1);
    claims["sub"] = json!("admin@example.com");
    claims["scope"] = json!("openid ride-promo:admin");
    token(&claims)
}

/// What [`client_token`] carries, for tests that spoil it before [`token`] signs it.
pub fn client_claims(user_id: i64) -> Value {
    json!({
        "iss": "ride-promo", "aud": "ride-promo", "sub": user_id.to_string(),
        "exp": unix_seconds() + 3_600,
    })
}

/// Signs claims, good or bad, with [`SECRET`].
pub fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).expect("claims are JSON")
}

/// Now, for a token's `exp`.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// One listener of a service, spoken to by one caller.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Api {
    /// Calls to `http://{address}`, without a token.
    pub fn new(address: &str) -> Self {
        // what reqwest would use for https; without one it refuses to be built
        static PROVIDER: LazyLock<()> = LazyLock::new(|| {
            // an error means that there is one already
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        LazyLock::force(&PROVIDER);
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .expect("a plain client");
        Self {
            http,
            base: format!("http://{address}"),
            token: None,
        }
    }

    /// Its host and port, for who speaks to it without this client.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The same listener with this token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            ..self.clone()
        }
    }

    /// A request to go on building, with the caller's token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an error is a connection that did not last to the end of the answer.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer {
            status,
            headers,
            text,
        })
    }

    /// Sends a request that must get a response, with any status.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST` without a body.
    pub async fn post(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path)).await
    }

    /// `POST` with a JSON body.
    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put_json(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch_json(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body))
            .await
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body as JSON (`null` where it is empty) of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The body of a refusal, which must be of this status and problem type.
    #[track_caller]
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(
            self.header(CONTENT_TYPE.as_str()),
            Some("application/problem+json")
        );
        assert_eq!(problem["type"], format!("/problems/{slug}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        problem
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The entity tag, which must be there.
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header(ETAG.as_str())
            .unwrap_or_else(|| panic!("no ETag: {self:?}"))
            .to_owned()
    }
}

/// A client's app.
#[derive(Clone, Debug)]
pub struct Client {
    /// Who it is.
    pub user_id: i64,
    /// The listener, with the client's token.
    pub api: Api,
}

impl Client {
    /// Presses Get started.
    pub async fn start(&self, promotion_id: i64) -> Answer {
        self.api.post(&path(promotion_id, "start")).await
    }

    /// Reads the participation.
    pub async fn progress(&self, promotion_id: i64) -> Answer {
        self.api.get(&path(promotion_id, "progress")).await
    }

    /// Reads the participation if it is no longer the one of this tag.
    pub async fn progress_since(&self, promotion_id: i64, etag: &str) -> Answer {
        let request = self
            .api
            .request(Method::GET, &path(promotion_id, "progress"));
        self.api.send(request.header(IF_NONE_MATCH, etag)).await
    }

    /// Waits up to `seconds` for the participation to differ from the one of this tag.
    pub async fn long_poll(&self, promotion_id: i64, etag: &str, seconds: u32) -> Answer {
        let path = format!("{}?wait={seconds}", path(promotion_id, "progress"));
        let request = self.api.request(Method::GET, &path);
        self.api.send(request.header(IF_NONE_MATCH, etag)).await
    }

    /// Opens the stream of the participation's changes.
    pub async fn stream(&self, promotion_id: i64) -> SseStream {
        SseStream::open(
            self.api
                .request(Method::GET, &path(promotion_id, "progress/stream")),
        )
        .await
    }

    /// Accepts the reward.
    pub async fn accept(&self, promotion_id: i64) -> Answer {
        self.api.post(&path(promotion_id, "accept_reward")).await
    }

    /// Gives the challenge up.
    pub async fn quit(&self, promotion_id: i64) -> Answer {
        self.api.post(&path(promotion_id, "quit")).await
    }

    /// Looks at the reward.
    pub async fn reward(&self, promotion_id: i64) -> Answer {
        self.api.get(&path(promotion_id, "get_reward")).await
    }

    /// Asks which screen to show.
    pub async fn land(&self) -> Value {
        self.api.post("/v1/landing").await.expect(200)
    }

    /// The receipts of the client's rides: the first page.
    pub async fn rides(&self, promotion_id: i64) -> Answer {
        self.api.get(&path(promotion_id, "rides")).await
    }
}

fn path(promotion_id: i64, call: &str) -> String {
    format!("/v1/promotions/{promotion_id}/{call}")
}

/// The admin panel.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The admin listener, with an admin's token.
    pub api: Api,
}

impl Admin {
    /// Writes the loan product that [`Admin::import_pre_offers`]'s lines usually name, number 80.
    pub async fn put_product(&self, product_id: i64) {
        let product = json!({
            "name": "First loan", "currency_code": "MXN", "term_days": 30,
            "terms_url": "https://example.com/terms",
        });
        let path = format!("/admin/v1/products/{product_id}");
        self.api.put_json(&path, &product).await.expect(200);
    }

    /// Allows promotions in a country, or stops them.
    pub async fn set_country(&self, country_code: &str, enabled: bool) {
        let path = format!("/admin/v1/geo-config/{country_code}");
        self.api
            .put_json(&path, &json!({ "promotions_enabled": enabled }))
            .await
            .expect(200);
    }

    /// Creates a promotion with a key of its own.
    pub async fn create_promotion(&self, conditions: &Value) -> Promotion {
        let key = format!("promo-{}", Uuid::new_v4().simple());
        let promotion = json!({
            "promotion_key": key, "title": "A loan for your rides", "conditions": conditions,
        });
        let created = self
            .api
            .post_json("/admin/v1/promotions", &promotion)
            .await
            .expect(201);
        let id = created["promotion_id"]
            .as_i64()
            .expect("promotion_id is an integer");
        Promotion { id, key }
    }

    /// Changes a promotion.
    pub async fn patch_promotion(&self, promotion: &Promotion, patch: &Value) -> Answer {
        let path = format!("/admin/v1/promotions/{}", promotion.id);
        self.api.patch_json(&path, patch).await
    }

    /// What is in use of a promotion's budget.
    pub async fn budget_use(&self, promotion: &Promotion) -> Value {
        let path = format!("/admin/v1/promotions/{}/budget-use", promotion.id);
        self.api.get(&path).await.expect(200)
    }

    /// Cancels a participation.
    pub async fn cancel(&self, user_id: i64, promotion_id: i64) -> Answer {
        let path = format!("/admin/v1/users/{user_id}/participations/{promotion_id}:cancel");
        let reason = json!({ "reason": "The client asked for it" });
        self.api.post_json(&path, &reason).await
    }

    /// Imports pre-offers as NDJSON; answers the report, where no line may be rejected.
    pub async fn import_pre_offers(&self, lines: &[Value]) -> Value {
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let request = self
            .api
            .request(Method::POST, "/admin/v1/pre-offers:import");
        let request = request
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body);
        let report = self.api.send(request).await.expect(200);
        assert_eq!(report["rejected"], 0, "{report}");
        report
    }

    /// All that a start needs besides the client: a product, a country that allows promotions
    /// (Mexico), and a promotion with these conditions.
    pub async fn open_promotion(&self, conditions: &Value) -> Promotion {
        self.put_product(80).await;
        self.set_country("MX", true).await;
        self.create_promotion(conditions).await
    }

    /// Everything the service knows of a client.
    pub async fn user(&self, user_id: i64) -> Value {
        self.api
            .get(&format!("/admin/v1/users/{user_id}"))
            .await
            .expect(200)
    }

    /// The figures of all promotions, of ingest, outbox and sweep.
    pub async fn stats(&self) -> Value {
        self.api.get("/admin/v1/stats").await.expect(200)
    }
}

/// A promotion that a test created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// `promotion_id`
    pub id: i64,
    /// `promotion_key`
    pub key: String,
}

impl Promotion {
    /// A valid newbie pre-offer for it, with the brief's terms; a line of an import.
    pub fn pre_offer(&self, user_id: i64) -> Value {
        json!({
            "external_id": Uuid::new_v4().to_string(), "user_id": user_id, "segment": "newbie",
            "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN",
            "repayment_rate": "15", "country_code": "MX", "valid_until": "2099-01-01T00:00:00Z",
            "promotion_key": self.key,
        })
    }
}

/// Conditions as the brief has them: `target` rides of at least MX$50 in 14 days, 7 to claim.
pub fn conditions(target: u32) -> Value {
    json!({
        "target_rides": target, "min_amount_cents": 5_000, "currency_code": "MXN",
        "challenge_period": "P14D", "claim_period": "P7D",
    })
}

/// The metrics of one process at one moment.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Reads Prometheus' text format.
    pub fn parse(text: String) -> Self {
        Self { text }
    }

    /// The sum over all series of a metric whose labels contain `labels`; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).sum()
    }

    /// Whether there is a series of a metric whose labels contain `labels`.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.samples(name, labels).next().is_some()
    }

    fn samples(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.text.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
            let wanted = found == name
                && labels.iter().all(|(key, value)| {
                    // at a label's start, so that `type` is not found in `event_type`
                    let label = format!("{key}=\"{value}\"");
                    found_labels.starts_with(&label) || found_labels.contains(&format!(",{label}"))
                });
            if wanted {
                value.parse::<f64>().ok()
            } else {
                None
            }
        })
    }
}
