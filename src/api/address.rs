//! Where requests go: the endpoint of a base URL, and whether it is this machine.

use std::net::IpAddr;

use reqwest::Url;

use crate::api::event::Api;
use crate::error::Error;
use crate::secret::redact::{Words, looks_secret};

/// Parts of a query that hold a key.
const SECRETS: [&str; 7] = [
    "key",
    "api_key",
    "api-key",
    "apikey",
    "token",
    "access_token",
    "password",
];

/// The address that requests go to.
pub(super) fn endpoint(base_url: &str, api: Api) -> Result<Url, Error> {
    // Where it cannot be read, nobody can say which part of it is a password.
    let shown = if base_url.contains('@') {
        "what is given".to_owned()
    } else {
        format!("`{base_url}`")
    };
    let refused = |why: &str| {
        Error::usage_hint(
            format!("{shown} is no base URL: {why}"),
            "a base URL looks like https://api.openai.com/v1 or http://127.0.0.1:8080/v1",
        )
    };
    let mut url =
        Url::parse(base_url.trim()).map_err(|error| refused(&error.to_string().to_lowercase()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refused("it must begin with https:// or http:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::usage_hint(
            format!(
                "the base URL for {} has a user name or password in it",
                host(&url)
            ),
            "put the key into GPTPIPE_API_KEY",
        ));
    }
    let secret = url.query_pairs().find(|(name, value)| {
        SECRETS.contains(&name.to_ascii_lowercase().as_str()) || looks_secret(value, Words::Own)
    });
    if let Some((name, _)) = secret {
        return Err(Error::usage_hint(
            format!(
                "the base URL for {} has a secret in it: `{name}`",
                host(&url)
            ),
            "put the key into GPTPIPE_API_KEY",
        ));
    }
    let path = match api {
        Api::Chat => "/chat/completions",
        Api::Responses => "/responses",
    };
    // Both the base and the whole address are common in other tools' settings.
    let base = url.path().trim_end_matches('/');
    let base = base.strip_suffix(path).unwrap_or(base).to_owned();
    url.set_path(&format!("{base}{path}"));
    Ok(url)
}

/// Where the list of models is, beside an endpoint.
pub(super) fn models(endpoint: &Url) -> Url {
    beside(endpoint, "/models")
}

/// Another path of the API that an endpoint belongs to.
pub(super) fn beside(endpoint: &Url, end: &str) -> Url {
    let mut url = endpoint.clone();
    let path = url.path();
    let base = ["/chat/completions", "/responses"]
        .iter()
        .find_map(|end| path.strip_suffix(end));
    let path = format!("{}{end}", base.unwrap_or(path));
    url.set_path(&path);
    url
}

/// Scheme, host and port of a base URL: what two of them must have in common for a key of one to go to the other.
/// `None` for what is no URL.
#[must_use]
pub fn origin(base_url: &str) -> Option<(String, String)> {
    let url = Url::parse(base_url.trim()).ok()?;
    Some((url.scheme().to_owned(), host(&url)))
}

/// Whether what is sent to a base URL could be read on the way: it goes unencrypted to another machine.
#[must_use]
pub fn is_exposed(base_url: &str) -> bool {
    Url::parse(base_url.trim()).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url))
}

/// Whether a base URL leads to this machine itself.
#[must_use]
pub fn is_local(base_url: &str) -> bool {
    Url::parse(base_url.trim()).is_ok_and(|url| is_loopback(&url))
}

/// Host and port, for messages.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address is this machine itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_endpoint() {
        let url = |base: &str, api| endpoint(base, api).unwrap().to_string();
        assert_eq!(
            url("https://h/v1", Api::Chat),
            "https://h/v1/chat/completions"
        );
        assert_eq!(
            url("https://h/v1/", Api::Responses),
            "https://h/v1/responses"
        );
        assert_eq!(
            url("https://h/v1/chat/completions", Api::Chat),
            "https://h/v1/chat/completions"
        );
        assert_eq!(
            url("https://h/openai/deployments/d?api-version=1", Api::Chat),
            "https://h/openai/deployments/d/chat/completions?api-version=1"
        );
        for wrong in [
            "localhost:8080/v1",
            "ftp://h/v1",
            "h",
            "",
            "http://",
            "https://user:canary@h/v1",
            "https://user:canary/more@h/v1",
            "https://h/v1?key=canary",
            "https://h/v1?x=1&API_KEY=canary",
        ] {
            let error = endpoint(wrong, Api::Chat).unwrap_err();
            assert!(error.hint().is_some(), "{wrong}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    #[test]
    fn finds_the_models_and_the_origin() {
        let of = |base| models(&endpoint(base, Api::Chat).unwrap()).to_string();
        assert_eq!(of("https://h/v1"), "https://h/v1/models");
        assert_eq!(
            of("https://h/d?api-version=1"),
            "https://h/d/models?api-version=1"
        );
        assert_eq!(origin("https://h:443/v1"), origin(" https://h/other "));
        assert_ne!(origin("https://h/v1"), origin("http://h/v1"));
        assert_ne!(origin("https://h/v1"), origin("https://h:8443/v1"));
        assert!(is_exposed("http://10.0.0.1/v1") && !is_exposed("https://10.0.0.1/v1"));
        assert!(!is_exposed("http://127.0.0.1:8080/v1") && is_local("http://[::1]/v1"));
    }

    #[test]
    fn knows_this_machine() {
        let is = |url: &str| is_loopback(&Url::parse(url).unwrap());
        assert!(is("http://localhost:1/") && is("http://127.8.0.1/") && is("http://[::1]:3/"));
        assert!(
            !is("http://10.0.0.1/") && !is("http://localhost.example/") && !is("http://0.0.0.0/")
        );
    }
}
