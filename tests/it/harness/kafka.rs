//! A real Apache Kafka: one KRaft node, started from the jars that `scripts/kafka-libs.sh` fetches.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
    types::RDKafkaErrorCode,
};
use serde_json::Value;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{
    authority::Authority,
    process::{Port, Process, Signal, new_dir, tail},
};

/// How long a broker may take to start, to stop and to answer: generous, for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A broker with its data directory. Ends with the value, or with the tests.
#[derive(Debug)]
pub struct Kafka {
    port: Port,
    dir: PathBuf,
    /// `None` while it is stopped on purpose.
    process: Mutex<Option<Process>>,
    secured: Option<Port>,
    /// Holds the small file system that the data is on, see [`Kafka::start_on_disk_of`].
    disk: Option<Process>,
    // two sockets, two claims; named so that it is held
    _controller: Port,
}

/// The user of [`Kafka::start_secured`]'s other listener.
pub const KAFKA_USER: &str = "ride-promo";

/// The password of [`KAFKA_USER`].
pub const KAFKA_PASSWORD: &str = "correct horse battery staple";

impl Kafka {
    /// The broker that all tests share: started by the first that asks.
    ///
    /// Never stop this one; a test that has to gets its own from [`Kafka::start_private`].
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Kafka>> = OnceCell::const_new();
        SHARED.get_or_init(Self::start_private).await.clone()
    }

    /// A broker of one's own, to stop, kill and freeze.
    pub async fn start_private() -> Arc<Self> {
        Self::start_with(None, "").await
    }

    /// A broker of one's own whose data is on a file system of its own, of so many MiB: one in memory,
    /// in namespaces of a process that is held for it, so that no rights are needed to mount it and
    /// it is gone when that process is.
    pub async fn start_on_disk_of(mib: u32) -> Arc<Self> {
        Self::start_on(None, "", Some(mib)).await
    }

    /// A broker of one's own that is in no hurry with its first group: the topic that groups are kept
    /// in is made then, and this one's has many partitions.
    pub async fn start_with_many_group_partitions() -> Arc<Self> {
        Self::start_with(None, "offsets.topic.num.partitions=200\n").await
    }

    /// A broker of one's own with a second listener, [`Kafka::secured_brokers`]: TLS with a
    /// certificate of this authority, and one user, [`KAFKA_USER`] by SCRAM-SHA-512, who may do only
    /// what [`Kafka::allow`] has allowed. The tests' own clients use the first, and may do
    /// everything.
    pub async fn start_secured(authority: &Authority) -> Arc<Self> {
        Self::start_with(Some(authority), "").await
    }

    /// What `more` says comes last, and so counts.
    async fn start_with(authority: Option<&Authority>, more: &str) -> Arc<Self> {
        Self::start_on(authority, more, None).await
    }

    async fn start_on(
        authority: Option<&Authority>,
        more: &str,
        disk_mib: Option<u32>,
    ) -> Arc<Self> {
        let port = Port::reserve();
        let controller = Port::reserve();
        let secured = authority.map(|_| Port::reserve());
        let dir = new_dir(&format!("kafka-{}", port.number()));
        let mut properties = properties(&port, &controller, secured.as_ref(), &dir);
        if let Some(authority) = authority {
            properties.push_str(&security(authority, &dir));
        }
        properties.push_str(more);
        fs::write(dir.join("server.properties"), properties).expect("the run's directory is ours");
        let disk = match disk_mib {
            Some(mib) => Some(mount(&dir, mib).await),
            None => None,
        };
        let kafka = Self {
            port,
            dir,
            process: Mutex::new(None),
            secured,
            disk,
            _controller: controller,
        };
        kafka.format().await;
        kafka.start().await;
        Arc::new(kafka)
    }

    /// What clients connect to.
    pub fn brokers(&self) -> String {
        self.port.address()
    }

    /// What clients of the secured listener connect to, by the name in its certificate.
    pub fn secured_brokers(&self) -> String {
        let port = self.secured.as_ref().expect("started with security");
        format!("localhost:{}", port.number())
    }

    /// Runs Kafka's own `kafka-acls.sh` with these arguments, against the listener that everything
    /// is allowed on.
    pub async fn acls(&self, arguments: &[&str]) {
        self.tool("org.apache.kafka.tools.AclCommand", arguments)
            .await;
    }

    /// Runs one of Kafka's own tools, a class of its jars, with `--bootstrap-server` set; answers
    /// what it printed.
    async fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let log = self
            .dir
            .join(format!("tool-{}.log", Uuid::new_v4().simple()));
        let mut command = java(&self.dir);
        command
            .args([class, "--bootstrap-server", &self.brokers()])
            .args(arguments);
        let mut tool = Process::spawn(class, command, &log, Signal::Kill);
        let status = tool.wait(TIMEOUT).await;
        let output = tail(&log, u64::MAX);
        assert!(
            status.is_some_and(|status| status.success()),
            "{class} {arguments:?}: {status:?}\n{output}"
        );
        output
    }

    /// Fills the disk of [`Kafka::start_on_disk_of`] to its last byte.
    pub fn fill_disk(&self) {
        let mut ballast = fs::File::create(self.ballast()).expect("there is room for a file");
        for size in [1 << 20, 4_096, 1] {
            let zeros = vec![0; size];
            while std::io::Write::write_all(&mut ballast, &zeros).is_ok() {}
        }
    }

    /// Makes room again on the disk that [`Kafka::fill_disk`] filled.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    /// The file that fills the disk, seen through the process that holds the file system.
    fn ballast(&self) -> PathBuf {
        let disk = self.disk.as_ref().expect("started on a disk of its own");
        let data = self.data().join("ballast");
        let data = data.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", disk.pid())).join(data)
    }

    /// Whether the broker has ended, by itself or not.
    pub fn has_ended(&self) -> bool {
        let mut process = self.process.lock().expect("not poisoned");
        process
            .as_mut()
            .is_none_or(|process| process.try_wait().is_some())
    }

    /// Starts it (again), on the same port and data, and waits until it serves requests.
    pub async fn start(&self) {
        self.launch();
        self.wait_until_ready().await;
    }

    /// Stops it in good order: it hands over what it leads and closes its log.
    pub async fn stop(&self) {
        if let Some(mut process) = self.take() {
            process.end(Signal::Terminate, TIMEOUT).await;
        }
    }

    /// Kills it, as a crash of its machine would, but for what the page cache keeps.
    pub async fn kill(&self) {
        if let Some(mut process) = self.take() {
            process.end(Signal::Kill, TIMEOUT).await;
        }
    }

    /// [`Kafka::stop`] and [`Kafka::start`].
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// [`Kafka::kill`] and [`Kafka::start`].
    pub async fn restart_immediate(&self) {
        self.kill().await;
        self.start().await;
    }

    /// Freezes it: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::Stop);
    }

    /// Ends [`Kafka::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::Continue);
    }

    fn signal(&self, signal: Signal) {
        let mut process = self.process.lock().expect("not poisoned");
        process
            .as_mut()
            .expect("the broker is running")
            .signal(signal);
    }

    /// Its process id.
    #[allow(dead_code, reason = "the measurements ask")]
    pub fn pid(&self) -> u32 {
        let process = self.process.lock().expect("not poisoned");
        process.as_ref().expect("the broker is running").pid()
    }

    fn take(&self) -> Option<Process> {
        self.process.lock().expect("not poisoned").take()
    }

    fn log(&self) -> PathBuf {
        self.dir.join("kafka.log")
    }

    async fn format(&self) {
        let cluster_id = loop {
            let id = URL_SAFE_NO_PAD.encode(Uuid::new_v4());
            // would be taken for an option
            if !id.starts_with('-') {
                break id;
            }
        };
        let mut command = self.java();
        command
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                &cluster_id,
                "-c",
            ])
            .arg(self.dir.join("server.properties"));
        if self.secured.is_some() {
            let user = format!("SCRAM-SHA-512=[name={KAFKA_USER},password={KAFKA_PASSWORD}]");
            command.args(["--add-scram", &user]);
        }
        let mut format = Process::spawn("kafka's format", command, &self.log(), Signal::Kill);
        let status = format.wait(TIMEOUT).await;
        assert!(
            status.is_some_and(|status| status.success()),
            "formatting Kafka's storage: {status:?}\n{}",
            tail(&self.log(), 4_000)
        );
    }

    /// The Java machine where the data is.
    fn java(&self) -> Command {
        let java = java(&self.dir);
        let Some(disk) = &self.disk else {
            return java;
        };
        let mut command = Command::new("nsenter");
        command
            .current_dir(&self.dir)
            .args(["--target", &disk.pid().to_string()])
            .args(["--user", "--mount", "--preserve-credentials", "--"])
            .arg(java.get_program())
            .args(java.get_args());
        command
    }

    fn launch(&self) {
        let mut command = self.java();
        command
            .args(["-Xmx512m", "kafka.Kafka"])
            .arg(self.dir.join("server.properties"));
        let mut process = self.process.lock().expect("not poisoned");
        assert!(process.is_none(), "the broker is already running");
        *process = Some(Process::spawn("kafka", command, &self.log(), Signal::Kill));
    }

    /// Waits until the broker lists itself: before, it is fenced and takes no topics.
    async fn wait_until_ready(&self) {
        let started = Instant::now();
        while !self.is_listed().await {
            let ended = {
                let mut process = self.process.lock().expect("not poisoned");
                process.as_mut().and_then(Process::try_wait)
            };
            assert!(
                ended.is_none() && started.elapsed() < TIMEOUT,
                "Kafka did not start ({ended:?}):\n{}",
                tail(&self.log(), 4_000)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_listed(&self) -> bool {
        if tokio::net::TcpStream::connect(self.brokers())
            .await
            .is_err()
        {
            return false;
        }
        self.blocking(|kafka: BaseConsumer| {
            let metadata = kafka.fetch_metadata(None, Duration::from_secs(1));
            metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
        })
        .await
    }

    /// Runs `work` with a consumer of its own, off the async threads: its calls block.
    async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(BaseConsumer) -> T + Send + 'static,
    {
        let config = self.consumer_config();
        tokio::task::spawn_blocking(move || work(config.create().expect("a valid configuration")))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn consumer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        config
            .set("group.id", "ride-promo-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "1")
            .set("check.crcs", "true");
        config
    }

    /// What every client of this broker needs.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers())
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            // a test that stopped a broker does not report its end
            .set("log_level", "2");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config()
            .create()
            .expect("a valid configuration")
    }

    /// Creates a topic and waits until all its partitions have a leader.
    pub async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let created = self.admin().create_topics([&topic], &admin_options()).await;
        let created = created.expect("the broker answers").remove(0);
        created.unwrap_or_else(|(topic, error)| panic!("cannot create {topic}: {error}"));
        let count = usize::try_from(partitions).expect("a topic has partitions");
        self.wait_for_partitions(name, count).await;
    }

    /// Deletes a topic and waits until the broker no longer knows it.
    pub async fn delete_topic(&self, name: &str) {
        let deleted = self.admin().delete_topics(&[name], &admin_options()).await;
        let deleted = deleted.expect("the broker answers").remove(0);
        deleted.unwrap_or_else(|(topic, error)| panic!("cannot delete {topic}: {error}"));
        self.wait_for_partitions(name, 0).await;
    }

    /// Deletes topics where it can: for cleaning up after a test.
    pub async fn forget_topics(&self, names: &[String]) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let patience = Some(Duration::from_secs(5));
        let _ = self
            .admin()
            .delete_topics(&names, &AdminOptions::new().request_timeout(patience))
            .await;
    }

    /// The names of all topics.
    pub async fn topics(&self) -> Vec<String> {
        self.blocking(|kafka| {
            let metadata = kafka.fetch_metadata(None, TIMEOUT).expect("metadata");
            let topics = metadata.topics().iter();
            topics.map(|topic| topic.name().to_owned()).collect()
        })
        .await
    }

    /// Gives a topic more partitions: `total` of them.
    pub async fn grow_topic(&self, name: &str, total: usize) {
        let grow = NewPartitions::new(name, total);
        let grown = self
            .admin()
            .create_partitions([&grow], &admin_options())
            .await;
        let grown = grown.expect("the broker answers").remove(0);
        grown.unwrap_or_else(|(topic, error)| panic!("cannot grow {topic}: {error}"));
        self.wait_for_partitions(name, total).await;
    }

    /// Removes the records before `offset`, as retention does.
    pub async fn truncate(&self, topic: &str, partition: i32, offset: i64) {
        let mut before = TopicPartitionList::new();
        before
            .add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("a valid offset");
        let deleted = self.admin().delete_records(&before, &admin_options()).await;
        deleted.expect("the broker removes records");
    }

    /// Cuts a partition's log back to `offset` on disk, as a lost tail leaves it (power loss, an
    /// unclean election, a wiped disk): what came from there on is gone, and the offsets will be
    /// given out again. The broker must be stopped, and each record before `offset` must be in
    /// batches that end before it.
    pub fn cut_log(&self, topic: &str, partition: i32, offset: i64) {
        assert!(
            self.process.lock().expect("not poisoned").is_none(),
            "the broker is running"
        );
        let dir = self.data().join(format!("{topic}-{partition}"));
        let segment = dir.join("00000000000000000000.log");
        let bytes = fs::read(&segment).expect("the partition's only segment");
        let mut end = 0;
        while let Some(header) = bytes.get(end..end + 12) {
            let (base, length) = header.split_at(8);
            let base = i64::from_be_bytes(base.try_into().expect("8 bytes"));
            if base >= offset {
                break;
            }
            let length = i32::from_be_bytes(length.try_into().expect("4 bytes"));
            end += 12 + usize::try_from(length).expect("not negative");
        }
        assert!(
            end < bytes.len(),
            "{topic}-{partition} has no offset {offset}"
        );
        let file = fs::File::options().write(true).open(&segment);
        let cut = file.and_then(|file| file.set_len(u64::try_from(end).expect("it fits")));
        cut.expect("the segment is ours");
        for entry in fs::read_dir(&dir).expect("the partition's directory") {
            let path = entry.expect("readable").path();
            let kind = path.extension().and_then(|kind| kind.to_str());
            // Built again from the log: what is recorded about the tail went with it.
            if matches!(kind, Some("index" | "timeindex" | "snapshot")) {
                fs::remove_file(path).expect("ours");
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    async fn wait_for_partitions(&self, topic: &str, count: usize) {
        let started = Instant::now();
        while self.partitions_with_leader(topic).await != count {
            assert!(
                started.elapsed() < TIMEOUT,
                "{topic} does not come to {count} partitions with a leader"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn partitions_with_leader(&self, topic: &str) -> usize {
        let topic = topic.to_owned();
        self.blocking(move |kafka| {
            let metadata = kafka
                .fetch_metadata(Some(&topic), TIMEOUT)
                .expect("metadata");
            let partitions = metadata
                .topics()
                .iter()
                .flat_map(|topic| topic.partitions());
            partitions
                .filter(|partition| partition.leader() >= 0)
                .count()
        })
        .await
    }

    /// The end of each partition, by number: the offset that the next record gets.
    pub async fn end_offsets(&self, topic: &str) -> Vec<i64> {
        let topic = topic.to_owned();
        self.blocking(move |kafka| {
            let partitions = partitions(&kafka, &topic);
            let ends = partitions.map(|partition| {
                let watermarks = kafka.fetch_watermarks(&topic, partition, TIMEOUT);
                watermarks
                    .expect("the watermarks of a partition that exists")
                    .1
            });
            ends.collect()
        })
        .await
    }

    /// Everything in the topic from its beginning to its end as it is now, transactions that were
    /// aborted left out. By partition, then by offset.
    ///
    /// # Panics
    /// Where the end is not reached, for instance behind a transaction that stays open.
    pub async fn read_topic(&self, topic: &str) -> Vec<Record> {
        let topic = topic.to_owned();
        self.blocking(move |kafka| read_to_end(&kafka, &topic))
            .await
    }

    /// A producer with the settings that the ride platform uses: idempotent, all replicas, Java's
    /// partitioner.
    pub fn producer(&self) -> FutureProducer {
        self.producer_config()
            .create()
            .expect("a valid configuration")
    }

    fn producer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.timeout.ms", "60000");
        config
    }

    /// Produces `records` to `topic` in one transaction, then commits or aborts it.
    ///
    /// One that is [left](TransactionEnd::Leave) stays open as long as the producer returned.
    pub async fn produce_in_transaction(
        &self,
        topic: &str,
        records: Vec<Outgoing>,
        end: TransactionEnd,
    ) -> FutureProducer {
        let mut config = self.producer_config();
        config.set("transactional.id", format!("tests-{}", Uuid::new_v4()));
        let topic = topic.to_owned();
        let producer: FutureProducer = config.create().expect("a valid configuration");
        let work = move || {
            producer.init_transactions(TIMEOUT).expect("a coordinator");
            producer.begin_transaction().expect("initialised");
            let sent: Vec<_> = records
                .iter()
                .map(|record| {
                    producer
                        .send_result(record.to(&topic))
                        .map_err(|(error, _)| error)
                })
                .collect::<Result<_, _>>()
                .expect("room in the queue");
            producer.flush(TIMEOUT).expect("all delivered");
            for delivery in sent {
                let delivery = futures::executor::block_on(delivery);
                delivery
                    .expect("the producer lives")
                    .map_err(|(error, _)| error)
                    .expect("stored");
            }
            match end {
                TransactionEnd::Commit => producer.commit_transaction(TIMEOUT),
                TransactionEnd::Abort => producer.abort_transaction(TIMEOUT),
                TransactionEnd::Leave => Ok(()),
            }
            .expect("the transaction's end");
            producer
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// How [`Kafka::produce_in_transaction`] leaves its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// Readers see the records.
    Commit,
    /// Readers never see them; their offsets stay empty.
    Abort,
    /// Readers of committed records wait before them.
    Leave,
}

/// A record to produce, with nothing taken for granted: rides come malformed too.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// The partition; chosen by the key where `None`.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Outgoing {
    /// A ride as the platform sends it: its JSON, keyed by its `user_id` in decimal.
    pub fn ride(ride: &Value) -> Self {
        Self {
            key: ride.get("user_id").map(|id| id.to_string().into_bytes()),
            value: Some(ride.to_string().into_bytes()),
            ..Self::default()
        }
    }

    /// The same for another partition than the key's.
    #[must_use]
    pub fn partition(self, partition: i32) -> Self {
        Self {
            partition: Some(partition),
            ..self
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// The form the producer takes.
    pub fn to<'a>(&'a self, topic: &'a str) -> FutureRecord<'a, Vec<u8>, Vec<u8>> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &self.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = FutureRecord::to(topic).headers(headers);
        record.partition = self.partition;
        record.key = self.key.as_ref();
        record.payload = self.value.as_ref();
        record
    }
}

/// A record read from a topic.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset in there.
    pub offset: i64,
    /// Its key, as text.
    pub key: Option<String>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers; the last where one is repeated.
    pub headers: BTreeMap<String, String>,
}

impl Record {
    /// The value as JSON.
    pub fn json(&self) -> Value {
        let value = self.value.as_deref().expect("a value, not a tombstone");
        serde_json::from_slice(value).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(text),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| {
                    (
                        header.key.to_owned(),
                        header.value.map(text).unwrap_or_default(),
                    )
                })
                .collect(),
        }
    }
}

/// The partitions of a topic, by number.
fn partitions(kafka: &BaseConsumer, topic: &str) -> std::ops::Range<i32> {
    let metadata = kafka
        .fetch_metadata(Some(topic), TIMEOUT)
        .expect("metadata");
    let topic = metadata
        .topics()
        .first()
        .expect("the topic that was asked for");
    assert!(
        topic.error().is_none(),
        "{}: {:?}",
        topic.name(),
        topic.error()
    );
    0..i32::try_from(topic.partitions().len()).expect("Kafka numbers partitions with an i32")
}

fn read_to_end(kafka: &BaseConsumer, topic: &str) -> Vec<Record> {
    let partitions = partitions(kafka, topic);
    let mut unfinished = partitions.len();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .expect("a valid offset");
    }
    kafka.assign(&assignment).expect("a valid assignment");
    let started = Instant::now();
    let mut records = Vec::new();
    while unfinished > 0 {
        assert!(
            started.elapsed() < TIMEOUT,
            "{unfinished} partitions of {topic} do not end"
        );
        match kafka.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => records.push(Record::of(&message)),
            // by the event, not by counting: the last record may be a transaction's marker
            Some(Err(KafkaError::PartitionEOF(_))) => unfinished -= 1,
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => panic!("reading {topic}: {error}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// What librdkafka reports and gets over by itself.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

fn admin_options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT))
}

/// Mounts a file system of so many MiB, in memory, where a broker's data will be; it lasts as long as
/// the process that holds it.
async fn mount(dir: &Path, mib: u32) -> Process {
    let data = dir.join("data");
    fs::create_dir_all(&data).expect("the run's directory is ours");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=$1m tmpfs \"$2\" && exec sleep 86400")
        .args(["sh", &mib.to_string()])
        .arg(&data);
    let log = dir.join("disk.log");
    let mut holder = Process::spawn("the holder of a disk", command, &log, Signal::Kill);
    let started = Instant::now();
    loop {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", holder.pid()));
        if mounts.is_ok_and(|mounts| mounts.contains(&data.display().to_string())) {
            return holder;
        }
        let ended = holder.try_wait();
        assert!(
            ended.is_none() && started.elapsed() < TIMEOUT,
            "no file system could be mounted; that takes user namespaces ({ended:?}): {}",
            tail(&log, 1_000)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The Java machine with Kafka on its class path, tuned to start fast rather than to run fast.
fn java(dir: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .current_dir(dir)
        .args([
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
        ])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-Dorg.slf4j.simpleLogger.showDateTime=true")
        .args(["-cp", &format!("{}/*", libs().display())]);
    command
}

/// The directory of Kafka's jars, next to what Cargo builds; fetched where they are missing.
pub(super) fn libs() -> &'static Path {
    static LIBS: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .expect("inside target");
        let libs = target.join("kafka-libs");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka-libs.sh");
        let status = Command::new(script).arg(&libs).status().expect("bash");
        assert!(
            status.success(),
            "Kafka's jars are needed; scripts/kafka-libs.sh fetches them"
        );
        libs
    });
    &LIBS
}

/// The second listener: encrypted, of users with a password, each held to what is allowed.
fn security(authority: &Authority, dir: &Path) -> String {
    // Kafka reads a key and its certificates from one file.
    let store = dir.join("listener.pem");
    let server = authority.server_certificate();
    fs::write(&store, format!("{}{}", server.key, server.certificate)).expect("ours");
    let store = store.display();
    format!(
        "ssl.keystore.type=PEM\n\
         ssl.keystore.location={store}\n\
         sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\n"
    )
}

fn properties(port: &Port, controller: &Port, secured: Option<&Port>, dir: &Path) -> String {
    let (broker, controller) = (port.address(), controller.address());
    let secured = secured.map_or_else(String::new, |port| {
        format!(",SECURED://localhost:{}", port.number())
    });
    let data = dir.join("data");
    let mut properties = String::new();
    let entries = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.bootstrap.servers", &controller),
        (
            "listeners",
            &format!("PLAINTEXT://{broker},CONTROLLER://{controller}{secured}"),
        ),
        (
            "advertised.listeners",
            &format!("PLAINTEXT://{broker}{secured}"),
        ),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL",
        ),
        ("controller.listener.names", "CONTROLLER"),
        ("log.dirs", &data.display().to_string()),
        ("auto.create.topics.enable", "false"),
        ("group.initial.rebalance.delay.ms", "0"),
        // tests of sleeping workers need not wait for the usual six seconds
        ("group.min.session.timeout.ms", "500"),
        // a killed broker is back after 3 s instead of 12
        ("broker.heartbeat.interval.ms", "300"),
        ("broker.session.timeout.ms", "1500"),
        // one node: nothing can be replicated, and few partitions of the broker's own start faster
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "4"),
        (
            "transaction.abort.timed.out.transaction.cleanup.interval.ms",
            "1000",
        ),
        // many small topics in one small machine
        ("log.index.size.max.bytes", "1048576"),
        ("log.cleaner.dedupe.buffer.size", "8388608"),
        ("log.cleaner.backoff.ms", "1000"),
        ("file.delete.delay.ms", "1000"),
        ("num.network.threads", "2"),
        ("num.io.threads", "4"),
        ("background.threads", "2"),
    ];
    for (key, value) in entries {
        writeln!(properties, "{key}={value}").expect("a string takes everything");
    }
    properties
}
