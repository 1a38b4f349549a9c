//! How every HTTP client of this program is made.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url};

use crate::api::address::is_loopback;

/// Time for a connection to be made; name look-up and TLS are part of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an unused connection is kept. Node's servers and llama-server close
/// after 5 s without notice; a request sent just then would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A client for this address, with everything set that does not depend on what is asked there.
pub(super) fn builder(url: &Url) -> ClientBuilder {
    let mut builder = Client::builder()
        .user_agent(concat!("gptpipe/", env!("CARGO_PKG_VERSION")))
        // A redirect would send the user's document, or a token, to another host.
        .redirect(reqwest::redirect::Policy::none())
        // Trying again is decided in one place, and this is not it.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true);
    if url.scheme() == "http" {
        // Without TLS there is no need to read the system's certificates, which takes
        // longer than everything else at the start.
        builder = builder.tls_certs_only([]);
    }
    if is_loopback(url) {
        // A proxy's own loopback is not ours.
        builder = builder.no_proxy();
    }
    // Only the first client finds no provider there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    builder
}
