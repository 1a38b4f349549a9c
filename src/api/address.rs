//! Where requests go: the endpoint of a base URL, and whether it is this machine.

use std::net::IpAddr;

use reqwest::Url;

use crate::api::event::Api;
use crate::error::Error;

/// The address that requests go to.
pub(super) fn endpoint(base_url: &str, api: Api) -> Result<Url, Error> {
    let refused = |why: &str| {
        Error::usage_hint(
            format!("`{base_url}` is no base URL: {why}"),
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
        ] {
            let error = endpoint(wrong, Api::Chat).unwrap_err();
            assert!(error.hint().is_some(), "{wrong}");
            assert!(!error.to_string().contains("canary"));
        }
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
