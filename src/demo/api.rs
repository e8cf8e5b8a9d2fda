//! The service as its users see it: all setup and all actions of the demo's clients use the public
//! HTTP calls.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use reqwest::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use reqwest::{Client as Http, Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::plan::Offer;
use crate::api::auth::ADMIN_SCOPE;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::eligibility::Screen;
use crate::domain::participation::StatusName;
use crate::domain::{Instant, PromotionId, UserId};
use crate::token::{self, Subject};
use crate::wire::format_instant;

/// The loan of every offer of the demo.
const PRODUCT_ID: i64 = 80;

/// How long a token of the demo is valid: longer than a demo is watched.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The timeout of a call; longer than the longest wait that a client may ask for.
const TIMEOUT: Duration = Duration::from_secs(40);

/// How long a client lets the service hold a request for progress.
const WAIT_SECONDS: u32 = 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The service returned another status.
    #[error("{call} was answered {status}: {body}")]
    Refused {
        call: String,
        status: StatusCode,
        body: String,
    },
    /// There was no response, or it cannot be read.
    #[error("{call}: {source}")]
    Lost {
        call: String,
        source: reqwest::Error,
    },
    /// No token could be made.
    #[error(transparent)]
    Token(#[from] token::TokenError),
}

/// The part of a participation that the demo uses.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Participation {
    pub(super) promotion_id: PromotionId,
    pub(super) status: StatusName,
    pub(super) started_at: Instant,
    pub(super) challenge_deadline: Instant,
    pub(super) reward_deadline: Option<Instant>,
    pub(super) server_time: Instant,
}

/// The part of a landing that the demo uses.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Landing {
    pub(super) screen: Screen,
    pub(super) promotion: Option<LandingPromotion>,
}

/// The promotion of a screen.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LandingPromotion {
    pub(super) promotion_id: PromotionId,
}

/// The result of accepting a reward.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct AcceptedLoan {
    pub(super) application_id: Uuid,
    pub(super) session_id: Uuid,
    pub(super) active_pre_offer_id: Uuid,
}

/// The result of a request for progress.
pub(super) enum Progress {
    /// It has changed; this is its tag now.
    Changed(Participation, Option<String>),
    /// No change during the wait.
    Unchanged,
}

/// The part of `GET /admin/v1/stats` that the demo shows.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Stats {
    pub(super) promotions: Vec<PromotionStats>,
    pub(super) ingest: IngestStats,
    pub(super) outbox: OutboxStats,
    pub(super) quarantine_open: i64,
}

/// The clients of a promotion, by status.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PromotionStats {
    pub(super) promotion_id: PromotionId,
    pub(super) started: u64,
    pub(super) in_progress: u64,
    pub(super) completed: u64,
    pub(super) rewarded: u64,
    pub(super) expired: ExpiredStats,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) struct ExpiredStats {
    pub(super) challenge_not_completed: u64,
    pub(super) reward_not_claimed: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct IngestStats {
    pub(super) lag: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct OutboxStats {
    pub(super) depth: i64,
}

/// Calls to the service of this run.
pub(super) struct Api {
    http: Http,
    config: Config,
    admin_token: String,
    /// How far the service's clock is ahead of this machine's, in milliseconds. Rides are judged by
    /// the service's clock.
    ahead_ms: AtomicI64,
}

impl Api {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::builder()
                .timeout(TIMEOUT)
                // All addresses are on the loopback interface.
                .no_proxy()
                .build()
                .context("making an HTTP client")?,
            config: config.clone(),
            admin_token: token::issue(
                &config.admin_auth,
                Subject::Operator {
                    name: "admin",
                    scope: ADMIN_SCOPE,
                },
                Clock::System.now(),
                TOKEN_LIFETIME,
            )?,
            ahead_ms: AtomicI64::new(0),
        })
    }

    /// The client API's address.
    pub(super) fn base(&self) -> String {
        format!("http://{}", self.config.api.listen)
    }

    /// The address of the admin API, metrics and probes.
    pub(super) fn admin_base(&self) -> String {
        format!("http://{}", self.config.admin.listen)
    }

    pub(super) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A token for a client.
    pub(super) fn token_of(&self, user_id: UserId) -> Result<String, token::TokenError> {
        let now = Clock::System.now();
        token::issue(
            &self.config.auth,
            Subject::User(user_id),
            now,
            TOKEN_LIFETIME,
        )
    }

    /// The present time by the service's clock, approximately.
    pub(super) fn now(&self) -> Instant {
        Clock::System.now() + TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// The readiness of the process as text.
    pub(super) async fn readiness(&self) -> Result<(), String> {
        let answer = self
            .http
            .get(format!("{}/readyz", self.admin_base()))
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(answer.text().await.unwrap_or_default())
        }
    }

    /// The service's metrics, as text.
    pub(super) async fn metrics(&self) -> Result<String, CallError> {
        let request = self.http.get(format!("{}/metrics", self.admin_base()));
        text_of("GET /metrics", request).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, CallError> {
        json_of("GET /stats", self.admin(Method::GET, "/stats")).await
    }

    /// Creates the product and enables the country.
    pub(super) async fn set_up(&self, offer: &Offer) -> Result<(), CallError> {
        let product = json!({
            "name": "First loan",
            "currency_code": offer.currency_code,
            "term_days": 30,
            "terms_url": "https://example.com/terms",
        });
        let path = format!("/products/{PRODUCT_ID}");
        text_of(
            "PUT /products",
            self.admin(Method::PUT, &path).json(&product),
        )
        .await?;
        self.enable(offer.country_code.as_str()).await
    }

    /// Allows promotions in a country.
    pub(super) async fn enable(&self, country_code: &str) -> Result<(), CallError> {
        let enabled = json!({ "promotions_enabled": true });
        let path = format!("/geo-config/{country_code}");
        let request = self.admin(Method::PUT, &path).json(&enabled);
        text_of("PUT /geo-config", request).await?;
        Ok(())
    }

    /// Creates the promotion; returns its number.
    pub(super) async fn create(&self, offer: &Offer) -> Result<PromotionId, CallError> {
        let promotion = json!({
            "promotion_key": offer.promotion_key,
            "title": offer.title,
            "conditions": offer.conditions,
        });
        self.create_promotion(&promotion).await
    }

    /// Creates a promotion from the body of the call; returns its number.
    pub(super) async fn create_promotion(
        &self,
        promotion: &Value,
    ) -> Result<PromotionId, CallError> {
        #[derive(Deserialize)]
        struct CreatedPromotion {
            promotion_id: PromotionId,
        }
        let request = self.admin(Method::POST, "/promotions").json(promotion);
        let created: CreatedPromotion = json_of("POST /promotions", request).await?;
        Ok(created.promotion_id)
    }

    /// Imports pre-offers for these clients.
    pub(super) async fn import(&self, offer: &Offer, clients: &[UserId]) -> Result<(), CallError> {
        let valid_until = format_instant(self.now() + TimeDelta::days(1));
        let lines: String = clients
            .iter()
            .map(|user_id| {
                let line = json!({
                    "external_id": format!("{}-{user_id}", offer.promotion_key),
                    "user_id": user_id,
                    "segment": "newbie",
                    "product_id": PRODUCT_ID,
                    "amount_cents": 100_000,
                    "currency_code": offer.currency_code,
                    "repayment_rate": "15",
                    "country_code": offer.country_code,
                    "valid_until": valid_until,
                    "promotion_key": offer.promotion_key,
                });
                format!("{line}\n")
            })
            .collect();
        let request = self
            .admin(Method::POST, "/pre-offers:import")
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(lines);
        let call = "POST /pre-offers:import";
        let report: Value = json_of(call, request).await?;
        if report["rejected"] != 0 || report["without_promotion"] != 0 {
            return Err(CallError::Refused {
                call: call.to_owned(),
                status: StatusCode::OK,
                body: report.to_string(),
            });
        }
        Ok(())
    }

    /// The screen of the landing.
    pub(super) async fn landing(&self, token: &str) -> Result<Landing, CallError> {
        let request = self.http.post(format!("{}/v1/landing", self.base()));
        json_of("POST /landing", request.bearer_auth(token)).await
    }

    /// Reads the reward's terms; returns `false` if the reward has expired.
    pub(super) async fn get_reward(
        &self,
        token: &str,
        promotion_id: PromotionId,
    ) -> Result<bool, CallError> {
        let url = format!("{}/v1/promotions/{promotion_id}/get_reward", self.base());
        let request = self.http.get(url).bearer_auth(token);
        let shown: Option<Value> = unless_gone("GET …/get_reward", request).await?;
        Ok(shown.is_some())
    }

    /// Accepts the reward; `None` if it has expired.
    pub(super) async fn accept_reward(
        &self,
        token: &str,
        promotion_id: PromotionId,
    ) -> Result<Option<AcceptedLoan>, CallError> {
        let url = format!("{}/v1/promotions/{promotion_id}/accept_reward", self.base());
        let request = self.http.post(url).bearer_auth(token);
        unless_gone("POST …/accept_reward", request).await
    }

    /// Acknowledges the end.
    pub(super) async fn acknowledge(
        &self,
        token: &str,
        promotion_id: PromotionId,
    ) -> Result<(), CallError> {
        let url = format!("{}/v1/promotions/{promotion_id}/acknowledge", self.base());
        let request = self.http.post(url).bearer_auth(token);
        checked("POST …/acknowledge", request).await?;
        Ok(())
    }

    /// Starts the challenge.
    pub(super) async fn start(
        &self,
        token: &str,
        promotion_id: PromotionId,
    ) -> Result<Participation, CallError> {
        let url = format!("{}/v1/promotions/{promotion_id}/start", self.base());
        let request = self.http.post(url).bearer_auth(token);
        let started: Participation = json_of("POST …/start", request).await?;
        let ahead = started.server_time - Clock::System.now();
        self.ahead_ms
            .store(ahead.num_milliseconds(), Ordering::Relaxed);
        Ok(started)
    }

    /// The client's progress: at once without a tag, else as soon as the tag changes.
    pub(super) async fn progress(
        &self,
        token: &str,
        promotion_id: PromotionId,
        tag: Option<&str>,
    ) -> Result<Progress, CallError> {
        let call = "GET …/progress";
        let url = format!("{}/v1/promotions/{promotion_id}/progress", self.base());
        let request = match tag {
            None => self.http.get(url),
            Some(tag) => self
                .http
                .get(format!("{url}?wait={WAIT_SECONDS}"))
                .header(IF_NONE_MATCH, tag),
        };
        let request = request.bearer_auth(token);
        let answer = checked(call, request).await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(Progress::Unchanged);
        }
        let tag = answer
            .headers()
            .get(ETAG)
            .and_then(|tag| tag.to_str().ok())
            .map(str::to_owned);
        let participation = answer.json().await.map_err(lost(call))?;
        Ok(Progress::Changed(participation, tag))
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/admin/v1{path}", self.admin_base()))
            .bearer_auth(&self.admin_token)
    }
}

fn lost(call: &str) -> impl FnOnce(reqwest::Error) -> CallError {
    let call = call.to_owned();
    move |source| CallError::Lost { call, source }
}

async fn checked(call: &str, request: RequestBuilder) -> Result<reqwest::Response, CallError> {
    let answer = request.send().await.map_err(lost(call))?;
    let status = answer.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(answer);
    }
    Err(CallError::Refused {
        call: call.to_owned(),
        status,
        body: answer.text().await.unwrap_or_default(),
    })
}

/// Like [`json_of`]; `None` for a `410`.
async fn unless_gone<T: DeserializeOwned>(
    call: &str,
    request: RequestBuilder,
) -> Result<Option<T>, CallError> {
    match json_of(call, request).await {
        Ok(answer) => Ok(Some(answer)),
        Err(CallError::Refused { status, .. }) if status == StatusCode::GONE => Ok(None),
        Err(error) => Err(error),
    }
}

async fn json_of<T: DeserializeOwned>(call: &str, request: RequestBuilder) -> Result<T, CallError> {
    checked(call, request)
        .await?
        .json()
        .await
        .map_err(lost(call))
}

async fn text_of(call: &str, request: RequestBuilder) -> Result<String, CallError> {
    checked(call, request)
        .await?
        .text()
        .await
        .map_err(lost(call))
}
