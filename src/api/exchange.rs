//! Carries what OAuth asks to an authorization server, the way that requests go to the API: the same proxies and
//! certificates, no redirects, and in the clear only to this machine.

use std::time::Duration;

use form_urlencoded::{Serializer, byte_serialize};
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Response, Url};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::api::address::{host, is_loopback};
use crate::api::failure::{Failure, Kind, Verdict, Wait};
use crate::api::{http, transport};
use crate::secret::oauth::{Answer, Call, Exchange, Unanswered};

/// Time for one request and its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is read of an answer, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Asks over HTTP.
#[derive(Clone, Copy, Debug)]
pub struct HttpExchange;

impl Exchange for HttpExchange {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unanswered>> {
        Box::pin(async move {
            let url = address(&call.url)?;
            let answer = timeout(TIMEOUT, send(&url, &call)).await;
            let answer = answer.unwrap_or_else(|_| {
                let wait = Kind::Timeout(Wait::FirstByte);
                Err(Failure::new(wait, &host(&url)))
            });
            answer.map_err(|failure| unanswered(&failure))
        })
    }
}

/// An address that tokens may be sent to.
fn address(text: &str) -> Result<Url, Unanswered> {
    let refused = |message: String, hint: &str| Unanswered {
        message,
        hint: Some(hint.to_owned()),
        is_transient: false,
    };
    let looks = "one looks like https://login.example.com/oauth/token";
    let Ok(url) = Url::parse(text) else {
        return Err(refused(
            format!("`{text}` is no address of an authorization server"),
            looks,
        ));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let message = format!(
            "the address at {} has a user name or password in it",
            host(&url)
        );
        return Err(refused(message, "name a variable with `client-secret-env`"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(refused(
            format!("tokens would travel unencrypted to {}", host(&url)),
            "the address has to begin with https://",
        )),
        _ => Err(refused(
            format!("`{text}` is no address of an authorization server"),
            looks,
        )),
    }
}

async fn send(url: &Url, call: &Call) -> Result<Answer, Failure> {
    let client = http::builder(url)
        .build()
        .map_err(|error| transport::from_transport(&error))?;
    let mut request = match &call.form {
        None => client.get(url.clone()),
        Some(form) => {
            let mut body = Serializer::new(String::new());
            body.extend_pairs(form.iter().map(|(name, value)| (*name, value.as_str())));
            client
                .post(url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body.finish())
        }
    }
    .header(ACCEPT, "application/json");
    if let Some((name, secret)) = &call.basic {
        // Both are encoded as in a form before they are put together (RFC 6749, section 2.3.1).
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let password = Zeroizing::new(encoded(secret.expose()));
        request = request.basic_auth(encoded(name), Some(&*password));
    }
    let response = request
        .send()
        .await
        .map_err(|error| transport::from_transport(&error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(Failure::new(Kind::Redirect, &host(url)));
    }
    Ok(Answer {
        status: status.as_u16(),
        body: read(response).await?,
    })
}

async fn read(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // At its full size from the start: growing would leave parts of tokens behind.
    let length = response.content_length().unwrap_or(16 << 10);
    let length = usize::try_from(length).unwrap_or(MAX_BODY).min(MAX_BODY);
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    loop {
        let bytes = response
            .chunk()
            .await
            .map_err(|error| transport::from_transport(&error))?;
        let Some(bytes) = bytes else {
            return Ok(body);
        };
        if body.len() + bytes.len() > MAX_BODY {
            return Err(Failure::new(
                Kind::NotApi,
                "its answer is longer than 1 MiB",
            ));
        }
        body.extend_from_slice(&bytes);
    }
}

fn unanswered(failure: &Failure) -> Unanswered {
    Unanswered {
        message: format!("the authorization server gave no answer: {failure}"),
        hint: Some("check the network, and the server's addresses in the profile".to_owned()),
        is_transient: failure.verdict() == Verdict::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_encrypted_or_to_this_machine() {
        for good in [
            "https://login.example/token",
            "http://127.0.0.1:9/token",
            "http://[::1]/t",
            "http://localhost/",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://login.example/",
            "ftp://login.example/",
            "login.example",
            "",
            "https://me:canary@login.example/",
        ] {
            let error = address(bad).unwrap_err();
            assert!(!error.is_transient && error.hint.is_some(), "{bad}");
            assert!(!error.message.contains("canary"), "{}", error.message);
        }
    }
}
