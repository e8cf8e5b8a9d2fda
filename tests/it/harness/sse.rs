//! A reader of Server-Sent Events, as a browser's `fetch` would read them.

use std::time::Duration;

use reqwest::{RequestBuilder, header::ACCEPT};
use serde_json::Value;
use tokio::time::timeout;

use super::http::Answer;

/// What arrives on a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum SseItem {
    /// An event.
    Event(SseEvent),
    /// A comment, which keeps the connection from looking dead.
    Comment(String),
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SseEvent {
    /// `event:`
    pub event: String,
    /// `id:`
    pub id: String,
    /// `data:`, its lines joined.
    pub data: String,
}

impl SseEvent {
    /// The data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// An open stream. Dropping it hangs up.
#[derive(Debug)]
pub struct SseStream {
    response: reqwest::Response,
    /// What has arrived of the item after the last one returned.
    buffer: Vec<u8>,
}

impl SseStream {
    /// Opens a stream that must be granted.
    pub async fn open(request: RequestBuilder) -> Self {
        match Self::try_open(request).await {
            Ok(stream) => stream,
            Err(refusal) => panic!("no stream: {refusal:?}"),
        }
    }

    /// Opens a stream, or answers why it was refused.
    pub async fn try_open(request: RequestBuilder) -> Result<Self, Answer> {
        // a stream lasts longer than any other answer
        let request = request
            .header(ACCEPT, "text/event-stream")
            .timeout(Duration::from_secs(600));
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let kind = headers
            .get("content-type")
            .and_then(|kind| kind.to_str().ok());
        if status == 200 && kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Ok(Self {
                response,
                buffer: Vec::new(),
            });
        }
        let text = response.text().await.expect("the whole answer");
        Err(Answer {
            status,
            headers,
            text,
        })
    }

    /// The next event, comments skipped; `None` where the service ended the stream.
    ///
    /// # Panics
    /// Where neither comes within `limit`.
    #[track_caller]
    pub fn next_event(
        &mut self,
        limit: Duration,
    ) -> impl Future<Output = Option<SseEvent>> + use<'_> {
        let caller = std::panic::Location::caller();
        let events = async {
            loop {
                match self.read().await {
                    Some(SseItem::Event(event)) => return Some(event),
                    Some(SseItem::Comment(_)) => {}
                    None => return None,
                }
            }
        };
        async move {
            let event = timeout(limit, events).await;
            event.unwrap_or_else(|_| panic!("{caller}: no event within {limit:?}"))
        }
    }

    /// The next event or comment; `None` where the service ended the stream or the connection
    /// broke. Never ends by itself: bound it with a timeout.
    pub async fn read(&mut self) -> Option<SseItem> {
        loop {
            if let Some(item) = self.take_item() {
                return Some(item);
            }
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// Takes one item off the buffer, once the empty line that ends it is there.
    fn take_item(&mut self) -> Option<SseItem> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("events are UTF-8");
            let item = parse(&block);
            if item.is_some() {
                return item;
            }
        }
    }
}

fn parse(block: &str) -> Option<SseItem> {
    let mut event = SseEvent::default();
    let mut comment = None;
    let mut fields = 0;
    let mut data = Vec::new();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        fields += usize::from(!field.is_empty());
        match field {
            "" => comment = Some(value.to_owned()),
            "event" => value.clone_into(&mut event.event),
            "id" => value.clone_into(&mut event.id),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    if fields > 0 {
        Some(SseItem::Event(event))
    } else {
        comment.map(SseItem::Comment)
    }
}
