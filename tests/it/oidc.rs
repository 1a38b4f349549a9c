//! A real authorization server on loopback: tests/oidc/provider.mjs, with the certified `oidc-provider` inside.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The folder that `.ci/run` has put the package into.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/oidc");

/// The server; it ends when it is dropped.
pub(crate) struct Oidc {
    child: Child,
    issuer: String,
}

impl Oidc {
    pub(crate) fn start() -> Self {
        assert!(
            Path::new(FOLDER)
                .join("node_modules/oidc-provider")
                .exists(),
            "the npm package oidc-provider is missing; run: npm install --prefix {FOLDER} oidc-provider@9"
        );
        let mut child = Command::new("node")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/oidc/provider.mjs"
            ))
            .current_dir(FOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node is needed, which Debian has as nodejs");
        let mut issuer = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut issuer).unwrap();
        let issuer = issuer.trim().to_owned();
        assert!(
            issuer.starts_with("http://127.0.0.1:"),
            "oidc-provider did not start: `{issuer}`"
        );
        Self { child, issuer }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The person allows the login with this code.
    pub(crate) fn approve(&self, code: &str) {
        self.steer(&format!("approve?code={code}"));
    }

    /// The person refuses it.
    pub(crate) fn deny(&self, code: &str) {
        self.steer(&format!("deny?code={code}"));
    }

    /// How long access tokens hold from now on, in seconds.
    pub(crate) fn tokens_hold(&self, seconds: u32) {
        self.steer(&format!("ttl?seconds={seconds}"));
    }

    /// Whether a token holds.
    pub(crate) fn holds(&self, token: &str) -> bool {
        self.steer(&format!("token?value={token}")) == true
    }

    /// How many tokens were given for a grant.
    pub(crate) fn given(&self, grant: &str) -> u64 {
        self.steer("seen")[grant].as_u64().unwrap()
    }

    /// How many families of tokens were revoked.
    pub(crate) fn families_revoked(&self) -> u64 {
        self.steer("seen")["families_revoked"].as_u64().unwrap()
    }

    fn steer(&self, path: &str) -> Value {
        let address = self.issuer.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET /test/{path} HTTP/1.0\r\nHost: {address}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let parts = answer.split_once("\r\n\r\n");
        let (head, body) = parts.unwrap_or_else(|| panic!("{path}: `{answer}`"));
        assert!(head.contains(" 200 "), "{path}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
