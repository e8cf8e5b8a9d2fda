//! Traces: from the `traceparent` of a ride or a request, through all its effects, to the status change and the
//! response.

use std::time::Duration;

use crate::harness::*;
use reqwest::Method;

const LIMIT: Duration = Duration::from_secs(60);

/// A recorded trace, and one whose sender decided that it is not.
const RIDE_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const RIDE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNRECORDED: &str = "00-1bf7651916cd43dd8448eb211c80319d-b7ad6b7169203332-00";
const ACCEPT_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const ACCEPT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The only span that is like this, once it has been received.
async fn span(collector: &Collector, what: &str, like: impl Fn(&Span) -> bool) -> Span {
    eventually(LIMIT, || async {
        let spans = collector.spans();
        let mut found = spans.iter().filter(|span| like(span));
        match (found.next(), found.next()) {
            (Some(span), None) => Ok(span.clone()),
            (Some(_), Some(_)) => Err(format!("{what}: more than one: {spans:#?}")),
            (None, _) => Err(format!("{what}: none: {spans:#?}")),
        }
    })
    .await
}

/// The `traceparent` of a participation's newest status change, once it is of this version.
async fn carried(world: &World, user: i64, promotion: &Promotion, version: i64) -> Option<String> {
    let record = eventually(LIMIT, || async {
        let records = world.status_of(user, promotion.id).await;
        let record = records
            .into_iter()
            .find(|record| record.version() == version);
        record.ok_or(format!("no version {version} yet"))
    })
    .await;
    record.record.headers.get("traceparent").cloned()
}

fn messaging(span: &Span, operation: &str, topic: &str) {
    assert_eq!(span.name, format!("{operation} {topic}"));
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", operation),
        ("messaging.destination.name", topic),
    ] {
        assert_eq!(span.attribute(name), value, "{span:#?}");
    }
}

/// The span of a long poll that is linked to how the read model heard of a ride. Who waits also looks
/// into Postgres once a second: where that was faster there is no link, and another ride is tried.
async fn linked_answer(
    world: &World,
    collector: &Collector,
    client: &Client,
    promotion: &Promotion,
) -> Span {
    const ROUTE: &str = "GET /v1/promotions/{promotion_id}/progress";
    for round in 1..=30 {
        let polls = || {
            collector
                .spans()
                .into_iter()
                .filter(|span| span.name == ROUTE)
        };
        let before = polls().count();
        let heard: Vec<String> = collector
            .spans()
            .into_iter()
            .filter(|span| span.name.starts_with("process "))
            .map(|span| span.span_id)
            .collect();
        if let Some(found) = polls().find(|poll| poll.links.iter().any(|link| heard.contains(link)))
        {
            return found;
        }
        let tag = client.progress(promotion.id).await.etag();
        let trace = format!("00-{round:032x}-00000000000000aa-01");
        let record = Outgoing::ride(&ride(client.user_id)).header("traceparent", &trace);
        let (answer, _) = tokio::join!(
            client.long_poll(promotion.id, &tag, 30),
            world.publish(&record)
        );
        answer.expect(200);
        // The read of the tag, the poll, and how the model heard, which may come after the poll.
        eventually(LIMIT, || async {
            let traced = |span: &Span| {
                span.name.starts_with("process ") && span.trace_id == format!("{round:032x}")
            };
            let heard = collector.spans().iter().filter(|span| traced(span)).count();
            equal((polls().count() >= before + 2, heard), (true, 2))
        })
        .await;
    }
    panic!("no answer was linked: {:#?}", collector.spans())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_from_the_ride_to_the_status_change_and_the_answer() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let page = block("docs/tracing.md", "endpoint");
    let set = page.split_whitespace().nth(1);
    let (variable, _) = set.and_then(|set| set.split_once('=')).expect("sets one");
    let service = world
        .service()
        .env(variable, collector.endpoint())
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let tag = client.progress(promotion.id).await.etag();

    // The client waits while the ride comes.
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), promotion.id);
        async move { client.long_poll(id, &tag, 30).await }
    });
    let waits = || async {
        let waits = service
            .metrics()
            .await
            .sum("ride_promo_waits_in_flight", &[]);
        equal(waits, 1.0)
    };
    eventually(LIMIT, waits).await;
    let record = Outgoing::ride(&ride(1)).header("traceparent", RIDE);
    world.publish(&record).await;
    let answer = waiting.await.expect("answered").expect(200);
    assert_eq!(answer["rides_completed"], 1);

    // Ingest: the ride's own span in its trace, the batch's, and the transaction within that.
    let (rides, statuses) = (world.ride_topic(), world.status_topic());
    let of_ride =
        |name: String| move |span: &Span| span.name == name && span.trace_id == RIDE_TRACE;
    let applied = span(&collector, "the ride", of_ride(format!("process {rides}"))).await;
    messaging(&applied, "process", rides);
    assert_eq!(
        (
            applied.kind.as_str(),
            applied.parent_id.as_str(),
            applied.attribute("ride_promo.user_id")
        ),
        ("CONSUMER", "b7ad6b7169203331", "1")
    );
    let batch = span(&collector, "its batch", |span| {
        applied.links.contains(&span.span_id)
    })
    .await;
    messaging(&batch, "process", rides);
    assert_eq!(
        (batch.kind.as_str(), batch.parent_id.as_str()),
        ("CONSUMER", "")
    );
    assert_eq!(
        batch.links,
        ["b7ad6b7169203331"],
        "the message's own context"
    );
    assert_eq!(batch.attribute("messaging.batch.message_count"), "1");
    assert_eq!(
        batch.attribute("messaging.consumer.group.name"),
        world.group_id()
    );
    let transaction = span(&collector, "its transaction", |span| {
        span.parent_id == batch.span_id
    })
    .await;
    assert_eq!(transaction.name, "transaction apply_rides");
    assert_eq!(
        (
            transaction.kind.as_str(),
            transaction.attribute("db.system.name"),
            transaction.attribute("db.namespace")
        ),
        ("CLIENT", "postgresql", world.database())
    );

    // Relay, and the record's header.
    let sent = span(
        &collector,
        "the status change",
        of_ride(format!("send {statuses}")),
    )
    .await;
    messaging(&sent, "send", statuses);
    assert_eq!(
        (sent.kind.as_str(), &sent.parent_id),
        ("PRODUCER", &applied.span_id)
    );
    assert_eq!(
        sent.attribute("ride_promo.event.type"),
        "promotion.progressed"
    );
    let sending = span(&collector, "its Kafka transaction", |span| {
        sent.links.contains(&span.span_id)
    })
    .await;
    messaging(&sending, "send", statuses);
    assert_eq!(sending.kind, "CLIENT");
    assert!(sending.links.contains(&sent.span_id), "{sending:#?}");
    let header = carried(&world, 1, &promotion, 2).await;
    assert_eq!(header, Some(format!("00-{RIDE_TRACE}-{}-01", sent.span_id)));

    // The read model, and the answer that it let go.
    let heard = span(
        &collector,
        "the read model",
        of_ride(format!("process {statuses}")),
    )
    .await;
    messaging(&heard, "process", statuses);
    assert_eq!(
        (heard.kind.as_str(), &heard.parent_id),
        ("CONSUMER", &sent.span_id)
    );
    let answered = linked_answer(&world, &collector, &client, &promotion).await;
    assert_eq!(answered.name, "GET /v1/promotions/{promotion_id}/progress");
    assert_eq!(answered.kind, "SERVER");
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v1/promotions/{promotion_id}/progress"),
        (
            "url.path",
            &format!("/v1/promotions/{}/progress", promotion.id),
        ),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(answered.attribute(name), value, "{answered:#?}");
    }
    assert_eq!(answered.resource["service.name"], "ride-promo");
    assert_eq!(answered.resource["deployment.environment.name"], "test");
    assert!(collector.spans().iter().all(|span| !span.failed));
    assert!(
        !collector
            .spans()
            .iter()
            .any(|span| span.name.contains("/metrics"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_brings_its_trace_and_the_senders_decision_holds() {
    let world = World::new().await;
    let collector = Collector::start().await;
    // Of the traces begun here none is recorded.
    let service = world
        .service()
        .env("RIDE_PROMO__TRACES__OTLP_ENDPOINT", collector.endpoint())
        .env("RIDE_PROMO__TRACES__SAMPLE_RATIO", "0")
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = service.eligible_client(1, &promotion).await;
    client.start(promotion.id).await.expect(201);
    assert_eq!(carried(&world, 1, &promotion, 1).await, None);

    let record = Outgoing::ride(&ride(1)).header("traceparent", UNRECORDED);
    world.publish(&record).await;
    let header = carried(&world, 1, &promotion, 2).await;
    assert_eq!(header.as_deref(), Some(UNRECORDED), "as it came");

    let path = format!("/v1/promotions/{}/accept_reward", promotion.id);
    let request = client
        .api
        .request(Method::POST, &path)
        .header("traceparent", ACCEPT);
    client.api.send(request).await.expect(200);
    let answered = span(&collector, "the request", |span| span.kind == "SERVER").await;
    assert_eq!(
        answered.name,
        "POST /v1/promotions/{promotion_id}/accept_reward"
    );
    assert_eq!(
        (answered.trace_id.as_str(), answered.parent_id.as_str()),
        (ACCEPT_TRACE, "00f067aa0ba902b7")
    );
    let transaction = span(&collector, "its transaction", |span| {
        span.parent_id == answered.span_id && span.name == "transaction accept_reward"
    })
    .await;
    assert_eq!(transaction.attribute("db.system.name"), "postgresql");
    let sent = span(&collector, "the status change", |span| {
        span.kind == "PRODUCER"
    })
    .await;
    assert_eq!(sent.parent_id, answered.span_id);
    let header = carried(&world, 1, &promotion, 3).await;
    assert_eq!(
        header,
        Some(format!("00-{ACCEPT_TRACE}-{}-01", sent.span_id))
    );

    // What ends the process is received too.
    let request = client
        .api
        .request(Method::GET, "/nowhere")
        .header("traceparent", RIDE);
    client.api.send(request).await.problem(404, "not-found");
    assert!(service.sigterm_and_wait().await.success());
    let last = collector
        .spans()
        .into_iter()
        .find(|span| span.trace_id == RIDE_TRACE);
    let last = last.expect("sent before the process ended");
    assert_eq!(
        (
            last.name.as_str(),
            last.attribute("http.response.status_code")
        ),
        ("GET", "404")
    );
    let traces = [RIDE_TRACE, ACCEPT_TRACE];
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| traces.contains(&span.trace_id.as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_many_traces_has_a_bounded_number_of_spans_and_loses_no_traceparent() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let challenges = Challenges::new(&world, &conditions(10)).await;
    let users: Vec<i64> = (1..=300).collect();
    challenges.start_an_hour_ago(&users).await;
    let trace = |user: i64| format!("{:032x}", user + 0x1000);
    let rides = users.iter().map(|user| {
        Outgoing::ride(&ride(*user)).header(
            "traceparent",
            &format!("00-{}-00000000000000aa-01", trace(*user)),
        )
    });
    world.publish_all(rides).await;
    // All of them are there when it starts, so that a batch holds many.
    let service = world
        .service()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .start()
        .await;
    world.rides_are_applied().await;
    world.events_are_published().await;
    assert!(service.sigterm_and_wait().await.success());

    let progressed = world.read_status_topic().await.into_iter();
    let progressed: Vec<_> = progressed
        .filter(|record| record.kind() == "promotion.progressed")
        .collect();
    assert_eq!(progressed.len(), users.len());
    for record in progressed {
        let user = record.event["user_id"].as_i64().expect("an id");
        let header = record
            .record
            .headers
            .get("traceparent")
            .cloned()
            .unwrap_or_default();
        assert!(
            header.starts_with(&format!("00-{}-", trace(user))) && header.ends_with("-01"),
            "{header}"
        );
    }
    let spans = collector.spans();
    let batches = spans.iter().filter(|span| span.parent_id.is_empty());
    let most = batches.map(|span| span.links.len()).max();
    assert!(
        most.is_some_and(|most| (2..=128).contains(&most)),
        "{most:?}"
    );
    for batch in spans.iter().filter(|span| span.parent_id.is_empty()) {
        let messages = spans
            .iter()
            .filter(|span| span.links == [batch.span_id.clone()]);
        assert!(messages.count() <= 128);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_one_line_and_is_counted() {
    let world = World::new().await;
    let collector = Collector::start().await;
    collector.refuse(true);
    let service = world
        .service()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .start()
        .await;
    let client = service.client(1);
    let sent = async |result| {
        let metrics = service.metrics().await;
        metrics.sum("ride_promo_trace_spans_sent_total", &[("result", result)])
    };
    let before = std::cell::Cell::new(0.0);
    for _ in 0..2 {
        client.progress(1).await.problem(404, "not-participating");
        eventually(LIMIT, || async {
            let failed = sent("failed").await;
            if failed > before.get() {
                before.set(failed);
                Ok(())
            } else {
                Err(format!("{failed} failed"))
            }
        })
        .await;
    }
    let said = service
        .log()
        .matches("the collector does not accept spans")
        .count();
    assert_eq!(said, 1, "{}", service.log());
    collector.refuse(false);
    client.progress(1).await.problem(404, "not-participating");
    eventually(LIMIT, || async {
        if sent("exported").await > 0.0
            && service.log().contains("the collector accepts spans again")
        {
            Ok(())
        } else {
            Err(service.log())
        }
    })
    .await;
    assert!(!collector.spans().is_empty());

    // Without a listener, the line says so.
    let nobody = Port::reserve();
    let service = world
        .service()
        .roles("api")
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", nobody.address()),
        )
        .start()
        .await;
    let answer = service.client(1).progress(1).await;
    answer.problem(404, "not-participating");
    eventually(LIMIT, || async {
        let log = service.log();
        let line = log
            .lines()
            .find(|line| line.contains("the collector does not accept spans"));
        match line {
            Some(line) if line.contains("Connection refused") => Ok(()),
            Some(line) => Err(line.to_owned()),
            None => Err("not yet".to_owned()),
        }
    })
    .await;
    assert!(service.sigterm_and_wait().await.success());
}
