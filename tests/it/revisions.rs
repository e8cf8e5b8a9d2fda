//! Changes on the condition that nothing else changed in between: `ETag` and `If-Match` of promotions, products and
//! countries (contract, "Who may do what").

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

/// Sends a change with `If-Match`.
async fn change(api: &Api, path: &str, body: &Value, condition: &str) -> Answer {
    let method = if path.contains("/promotions/") {
        Method::PATCH
    } else {
        Method::PUT
    };
    let request = api.request(method, path).header("if-match", condition);
    api.send(request.json(body)).await
}

fn product(name: &str) -> Value {
    json!({ "name": name, "currency_code": "MXN", "term_days": 30, "terms_url": null })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_made_only_to_what_its_author_saw() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let api = &service.admin().api;
    let id = service.admin().create_promotion(&conditions(2)).await.id;
    let promotion = format!("/admin/v1/promotions/{id}");
    let (loan, country) = ("/admin/v1/products/80", "/admin/v1/geo-config/MX");

    // What is not there meets no condition, and is not made.
    for (path, body) in [
        (loan, product("First")),
        (country, json!({ "promotions_enabled": true })),
    ] {
        api.get(path).await.problem(404, "not-found");
        for condition in ["*", "\"5\""] {
            let refused = change(api, path, &body, condition).await;
            refused.problem(412, "precondition-failed");
        }
        api.get(path).await.problem(404, "not-found");
        let written = api.put_json(path, &body).await;
        let read = api.get(path).await;
        assert_eq!(read.expect(200), written.expect(200), "{path}");
        assert_eq!(read.etag(), written.etag(), "{path}");
    }
    let there_is_no = change(api, "/admin/v1/promotions/999", &json!({}), "*").await;
    there_is_no.problem(404, "not-found");

    for (path, first, second) in [
        (
            &*promotion,
            json!({ "title": "A" }),
            json!({ "title": "B" }),
        ),
        (loan, product("A"), product("B")),
        (
            country,
            json!({ "promotions_enabled": false }),
            json!({ "promotions_enabled": true }),
        ),
    ] {
        let read = api.get(path).await;
        let seen = read.etag();
        assert!(
            seen.starts_with('"') && seen.ends_with('"'),
            "strong: {seen}"
        );
        assert_eq!(api.get(path).await.etag(), seen, "{path}");
        let known = api
            .request(Method::GET, path)
            .header("if-none-match", &seen);
        let known = api.send(known).await;
        assert_eq!((known.status.as_u16(), known.etag()), (304, seen.clone()));

        // An operator changes it; the next one saw what was before.
        let changed = change(api, path, &first, &seen).await;
        let shown = changed.expect(200);
        assert_ne!(changed.etag(), seen, "{path}");
        let before = service.admin().audit_length().await;
        for condition in [
            &*seen,
            "\"other\"",
            "nonsense",
            "",
            &format!("W/{}", changed.etag()),
        ] {
            let refused = change(api, path, &second, condition).await;
            refused.problem(412, "precondition-failed");
        }
        assert_eq!(api.get(path).await.expect(200), shown, "{path}");
        assert_eq!(service.admin().audit_length().await, before, "{path}");
        let several = format!("{seen}, {}", changed.etag());
        let changed = change(api, path, &second, &several).await;
        changed.expect(200);
        change(api, path, &first, "*").await.expect(200);
        // Without a condition the last one wins, as it always did.
        let method = if path == promotion {
            Method::PATCH
        } else {
            Method::PUT
        };
        let request = api.request(method, path).json(&second);
        let last = api.send(request).await;
        last.expect(200);
        assert_eq!(api.get(path).await.etag(), last.etag(), "{path}");
    }
    // A patch of nothing looks at its condition too.
    let refused = change(api, &promotion, &json!({}), "\"5\"").await;
    refused.problem(412, "precondition-failed");
    let seen = api.get(&promotion).await.etag();
    change(api, &promotion, &json!({}), &seen).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_the_same_time_to_the_same_revision_one_is_made() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let api = &service.admin().api;
    let id = service.admin().create_promotion(&conditions(2)).await.id;
    let promotion = format!("/admin/v1/promotions/{id}");
    let (loan, country) = ("/admin/v1/products/80", "/admin/v1/geo-config/MX");
    api.put_json(loan, &product("First")).await.expect(200);
    let on = json!({ "promotions_enabled": true });
    api.put_json(country, &on).await.expect(200);
    for path in [&*promotion, loan, country] {
        let seen = api.get(path).await.etag();
        let before = service.admin().audit_length().await;
        let changes = (0..12).map(|n| {
            let body = match path {
                path if path == loan => product(&format!("Name {n}")),
                path if path == country => json!({ "promotions_enabled": n % 2 == 0 }),
                _ => json!({ "title": format!("Title {n}") }),
            };
            let (api, seen) = (api.clone(), seen.clone());
            async move { change(&api, path, &body, &seen).await.status.as_u16() }
        });
        let statuses = futures::future::join_all(changes).await;
        let made = statuses.iter().filter(|status| **status == 200).count();
        let refused = statuses.iter().filter(|status| **status == 412).count();
        assert_eq!((made, refused), (1, 11), "{path}: {statuses:?}");
        assert_eq!(service.admin().audit_length().await, before + 1, "{path}");
    }
}

impl Admin {
    /// How many changes are recorded.
    async fn audit_length(&self) -> usize {
        let page = self.api.get("/admin/v1/audit?limit=200").await.expect(200);
        page["items"].as_array().expect("items").len()
    }
}
