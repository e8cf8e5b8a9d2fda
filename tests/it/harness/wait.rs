//! Waiting for something to become true, instead of sleeping and hoping.

use std::{
    fmt::{Debug, Display},
    future::Future,
    panic::Location,
    time::{Duration, Instant},
};

/// What one look at the world can answer: done, or not yet and why.
pub trait Attempt {
    /// What the wait returns once it is there.
    type Done;

    /// `Err` says, for the message of a failure, what was seen instead.
    fn outcome(self) -> Result<Self::Done, String>;
}

impl Attempt for bool {
    type Done = ();

    fn outcome(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> Attempt for Option<T> {
    type Done = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Attempt for Result<T, E> {
    type Done = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// `Ok` where both are equal, else an error that shows them: for [`eventually`].
pub fn equal<T: PartialEq + Debug>(actual: T, expected: T) -> Result<T, String> {
    if actual == expected {
        Ok(actual)
    } else {
        Err(format!("{actual:?}, expected {expected:?}"))
    }
}

/// How much longer than the whole wait a single attempt may take, for a machine busy with others.
const ATTEMPT_OVER_LIMIT: Duration = Duration::from_secs(60);

/// Tries again and again, with short pauses that grow to 50 ms, until the attempt succeeds.
///
/// # Panics
/// After `limit`, with the caller's line and what the last attempt saw; and where one attempt hangs,
/// a minute later than that.
///
/// ```ignore
/// let done = eventually(Duration::from_secs(10), || async {
///     equal(client.progress(promotion).await.expect(200)["rides_completed"].clone(), json!(3))
/// })
/// .await;
/// ```
#[track_caller]
pub fn eventually<F, A>(
    limit: Duration,
    mut attempt: F,
) -> impl Future<Output = <A::Output as Attempt>::Done>
where
    F: FnMut() -> A,
    A: Future<Output: Attempt>,
{
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let answer = tokio::time::timeout(limit + ATTEMPT_OVER_LIMIT, attempt()).await;
            let Ok(answer) = answer else {
                panic!("{caller}: an attempt of a wait of {limit:?} hangs");
            };
            match answer.outcome() {
                Ok(done) => return done,
                Err(seen) if started.elapsed() > limit => {
                    panic!("{caller}: not within {limit:?}; last seen: {seen}")
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}
