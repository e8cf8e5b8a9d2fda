//! The OpenAPI documents, made from the routes themselves.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};

use super::problem::ProblemDetails;
use super::{admin, client};

const BEARER: &str = "bearer";

/// Of the client API.
pub fn client_openapi() -> OpenApi {
    document(
        client::router().into_openapi(),
        "Ride Promo",
        "What a client's app calls. The token's `sub` is the client's `user_id`; a client only ever \
         sees their own. Refusals are RFC 9457 problems.",
    )
}

/// Of the admin API.
pub fn admin_openapi() -> OpenApi {
    document(
        admin::router().into_openapi(),
        "Ride Promo admin",
        "What operators call. The token's `scope` contains `ride-promo:admin`. Refusals are RFC \
         9457 problems.",
    )
}

fn document(mut api: OpenApi, title: &str, description: &str) -> OpenApi {
    api.info = InfoBuilder::new()
        .title(title)
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .build();
    let components = api.components.get_or_insert_with(Components::new);
    let mut schemas = vec![(
        ProblemDetails::name().into_owned(),
        ProblemDetails::schema(),
    )];
    ProblemDetails::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    api.security = Some(vec![SecurityRequirement::new(BEARER, [] as [&str; 0])]);
    api
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_call_and_its_refusals() {
        let api = serde_json::to_value(client_openapi()).expect("JSON");
        let paths = &api["paths"];
        for (path, method) in [
            ("/v1/landing", "post"),
            ("/v1/promotions/{promotion_id}/start", "post"),
            ("/v1/promotions/{promotion_id}/progress", "get"),
            ("/v1/promotions/{promotion_id}/progress/stream", "get"),
            ("/v1/promotions/{promotion_id}/rides", "get"),
            ("/v1/promotions/{promotion_id}/acknowledge", "post"),
            ("/v1/promotions/{promotion_id}/get_reward", "get"),
            ("/v1/promotions/{promotion_id}/accept_reward", "post"),
        ] {
            let responses = &paths[path][method]["responses"];
            for status in ["400", "401", "404", "429", "503"] {
                let content = &responses[status]["content"];
                assert!(
                    content["application/problem+json"].is_object(),
                    "{path} {status}: {responses}"
                );
            }
        }
        // Every reference leads somewhere.
        let text = api.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(api["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
