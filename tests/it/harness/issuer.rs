//! An identity provider: keys that sign tokens, and a server of its key set that can fail.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

/// A key pair that signs tokens.
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
}

impl SigningKey {
    /// A new one for ES256.
    pub fn es256() -> Self {
        let arguments = ["EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let key = EncodingKey::from_ec_pem(&generate(&arguments)).expect("a key");
        let algorithm = Algorithm::ES256;
        Self { key, algorithm }
    }

    /// A new one for RS256.
    pub fn rs256() -> Self {
        let arguments = ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let key = EncodingKey::from_rsa_pem(&generate(&arguments)).expect("a key");
        let algorithm = Algorithm::RS256;
        Self { key, algorithm }
    }

    /// Its public half as a key of a set.
    pub fn jwk(&self, kid: Option<&str>) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["use"] = json!("sig");
        if let Some(kid) = kid {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    /// Signs claims.
    pub fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &self.key).expect("claims are JSON")
    }
}

fn generate(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(["genpkey", "-algorithm"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program openssl; install the package openssl");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A key set's text.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A server of a key set.
#[derive(Debug)]
pub struct Issuer {
    address: String,
    /// `None` answers 500.
    set: Arc<Mutex<Option<String>>>,
    fetches: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Issuer {
    /// Serves this set.
    pub async fn start(set: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let set = Arc::new(Mutex::new(set));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (Arc::clone(&set), Arc::clone(&fetches));
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let set = shown.lock().expect("not poisoned").clone();
                let status = if set.is_some() { "200 OK" } else { "500 No" };
                let set = set.unwrap_or_default();
                let response = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{set}",
                    set.len()
                );
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        Self {
            address,
            set,
            fetches,
            serving,
        }
    }

    /// Where the set is.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Serves another set from now on; none is an error.
    pub fn serve(&self, set: Option<String>) {
        *self.set.lock().expect("not poisoned") = set;
    }

    /// How often it was asked.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
