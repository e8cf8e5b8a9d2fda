//! An authority that signs certificates. Only the tests that made it trust it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::process::new_dir;

/// A certificate authority of a test's own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A server's certificate for `localhost`, and its key, both PEM.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let dir = new_dir(&format!("authority-{}", uuid::Uuid::new_v4().simple()));
        // Without the machine's openssl.cnf, whose extensions would come on top.
        fs::write(
            dir.join("openssl.cnf"),
            "[req]\ndistinguished_name = name\n[name]\n",
        )
        .expect("ours");
        let authority = Self { dir };
        authority.openssl(&[
            "-subj",
            "/CN=An authority of the tests",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
            "-addext",
            "subjectKeyIdentifier=hash",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    /// The file of its certificate, for clients that trust it.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for a server on `localhost`, not on the address behind that name.
    pub fn server_certificate(&self) -> ServerCertificate {
        self.openssl(&[
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-subj",
            "/CN=localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "extendedKeyUsage=serverAuth",
            "-keyout",
            "server.key",
            "-out",
            "server.pem",
        ]);
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).expect("just written");
        ServerCertificate {
            certificate: read("server.pem"),
            key: read("server.key"),
        }
    }

    /// `openssl req`, which makes a key and a certificate at once.
    fn openssl(&self, arguments: &[&str]) {
        let new_key = [
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ];
        let output = Command::new("openssl")
            .current_dir::<&Path>(&self.dir)
            .args(new_key)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program openssl; install the package openssl");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
