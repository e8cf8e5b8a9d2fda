//! A client that lost all brokers is replaced by a new one.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const TOPIC: &str = "rides";

/// Enough for librdkafka to be still reading the response when its connections close.
const PARTITIONS: i32 = 2_000;

/// The part of a broker that answers metadata requests. A real broker reports an empty list of brokers only
/// at the moment at which it comes back, and a test cannot choose that moment.
struct Broker {
    port: u16,
    /// Whether it reports an empty list of brokers.
    fenced: Arc<AtomicBool>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let fenced = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&fenced);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = Arc::clone(&says);
                // It ends with the connection.
                thread::spawn(move || serve(stream, port, &says));
            }
        });
        Self { port, fenced }
    }
}

fn serve(mut stream: TcpStream, port: u16, fenced: &AtomicBool) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let (api, correlation) = (&request[..4], &request[4..8]);
        let mut answer = correlation.to_vec();
        match api {
            [0, 18, 0, version] => {
                // In version 0, the only one there is (35: an unsupported version).
                let error: i16 = if *version == 0 { 0 } else { 35 };
                answer.extend(error.to_be_bytes());
                answer.extend(2_i32.to_be_bytes());
                for number in [3_i16, 0, 4, 18, 0, 0] {
                    answer.extend(number.to_be_bytes());
                }
            }
            [0, 3, 0, 4] => answer.extend(metadata(port, fenced.load(Ordering::SeqCst))),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        let length = u32::try_from(answer.len()).expect("it is short");
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
    }
}

/// The body of a metadata response, version 4: one broker or none, one topic.
fn metadata(port: u16, fenced: bool) -> Vec<u8> {
    let mut body = Vec::new();
    let int = |body: &mut Vec<u8>, number: i32| body.extend(number.to_be_bytes());
    let short = |body: &mut Vec<u8>, number: i16| body.extend(number.to_be_bytes());
    let text = |body: &mut Vec<u8>, text: &str| {
        let length = i16::try_from(text.len()).expect("it is short");
        body.extend(length.to_be_bytes());
        body.extend(text.as_bytes());
    };
    int(&mut body, 0); // throttled for
    int(&mut body, i32::from(!fenced)); // brokers
    if !fenced {
        int(&mut body, 1);
        text(&mut body, "127.0.0.1");
        int(&mut body, port.into());
        short(&mut body, -1); // no rack
    }
    text(&mut body, "a cluster");
    int(&mut body, -1); // no controller
    int(&mut body, 1); // topics
    short(&mut body, 0);
    text(&mut body, TOPIC);
    body.push(0); // not internal
    int(&mut body, PARTITIONS);
    for partition in 0..PARTITIONS {
        short(&mut body, if fenced { 5 } else { 0 }); // no leader
        int(&mut body, partition);
        int(&mut body, if fenced { -1 } else { 1 });
        for _ in ["replicas", "in sync"] {
            int(&mut body, 1);
            int(&mut body, 1);
        }
    }
    body
}

#[tokio::test]
async fn a_client_that_lost_all_brokers_is_replaced() {
    let broker = Broker::start();
    let cluster = Cluster::new(&KafkaConfig {
        brokers: format!("127.0.0.1:{}", broker.port),
        ride_topic: TOPIC.into(),
        status_topic: "status".into(),
        reminder_topic: "reminders".into(),
        group_id: "group".into(),
        create_topics: false,
        partitions: 1,
        replication_factor: 1,
        properties: BTreeMap::new(),
        property_files: BTreeMap::new(),
    })
    .expect("a client");
    // Which of librdkafka's threads comes first decides; mostly it is lost in the first round.
    for _ in 0..50 {
        let asked = cluster.partitions(TOPIC).await;
        assert_eq!(asked.expect("an answer").len(), 2_000);
        broker.fenced.store(true, Ordering::SeqCst);
        let _ = cluster.partitions(TOPIC).await;
        broker.fenced.store(false, Ordering::SeqCst);
        let mut unanswered = 0;
        while let Err(error) = cluster.partitions(TOPIC).await {
            assert!(error.is_transient(), "{error}");
            unanswered += 1;
            assert!(unanswered < 10, "still: {error}");
        }
        if unanswered > 0 {
            return;
        }
    }
}
