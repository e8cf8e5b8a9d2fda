//! Kafka's disk is full: acknowledged records are applied once there is space again, without any action on the
//! service.

use std::time::Duration;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// What a broker of the tests needs, twice.
const DISK_MIB: u32 = 192;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_kafkas_loses_nothing_and_the_service_goes_on_when_there_is_room() {
    let kafka = Kafka::start_on_disk_of(DISK_MIB).await;
    let world = World::builder().kafka(&kafka).partitions(2).build().await;
    let challenges = Challenges::new(&world, &conditions(10_000)).await;
    challenges.start_an_hour_ago(&[1]).await;
    let service = world.service().start().await;
    let counted = async |rides: i32| {
        eventually(LIMIT, || async {
            equal(challenges.standing(1).await.rides_completed, rides)
        })
        .await;
    };
    let long = || {
        let mut ride = ride(1);
        ride["note"] = "x".repeat(4_000).into();
        Outgoing::ride(&ride)
    };
    world.publish_all((0..10).map(|_| long())).await;
    counted(10).await;
    world.events_are_published().await;

    kafka.fill_disk();
    // They wait with the publisher; the broker ends itself when it cannot write.
    let publish = world.publish_all((0..20).map(|_| long()));
    let recover = async {
        eventually(LIMIT, || async {
            if kafka.has_ended() {
                Ok(())
            } else {
                Err("the broker goes on")
            }
        })
        .await;
        eventually(LIMIT, || async {
            match service.readiness().await {
                Some(answer) if answer.status == 503 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        // Clients are served all the while.
        service
            .client(1)
            .progress(challenges.promotion_id)
            .await
            .expect(200);
        kafka.kill().await;
        kafka.make_room();
        kafka.start().await;
    };
    let (published, ()) = tokio::join!(publish, recover);
    assert_eq!(published.len(), 20, "each was acknowledged");
    counted(30).await;
    service.wait_ready().await;
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
    assert!(service.is_running());
}
