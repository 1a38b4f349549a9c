//! Where a server's addresses are: it publishes them itself (`OpenID` Connect Discovery 1.0; RFC 8414).

use serde::Deserialize;

use crate::secret::oauth::{Call, Endpoints, Exchange};
use crate::secret::oauth_error::{OauthError, Remedy};

/// What the server publishes, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Completes the addresses that the user names by what the server publishes; without an issuer there is nothing to
/// ask.
///
/// # Errors
/// When nothing is published, or what is published is another server's.
pub async fn discover(
    exchange: &dyn Exchange,
    issuer: Option<&str>,
    named: &Endpoints,
) -> Result<Endpoints, OauthError> {
    let Some(issuer) = issuer else {
        return Ok(named.clone());
    };
    let metadata = metadata(exchange, issuer).await?;
    let methods = metadata.token_endpoint_auth_methods_supported;
    Ok(Endpoints {
        device_authorization: named
            .device_authorization
            .clone()
            .or(metadata.device_authorization_endpoint),
        token: named.token.clone().or(metadata.token_endpoint),
        revocation: named.revocation.clone().or(metadata.revocation_endpoint),
        // Where nothing is said, the header is what every server takes (RFC 8414, section 2).
        wants_post: methods.is_some_and(|methods| {
            let has = |method: &str| methods.iter().any(|known| known == method);
            has("client_secret_post") && !has("client_secret_basic")
        }),
    })
}

async fn metadata(exchange: &dyn Exchange, issuer: &str) -> Result<Metadata, OauthError> {
    let mut statuses = Vec::new();
    for url in addresses(issuer) {
        let call = Call {
            url: url.clone(),
            form: None,
            basic: None,
        };
        let answer = exchange.call(call).await?;
        if answer.status == 429 || answer.status >= 500 {
            let message = format!("`{url}` answered {}", answer.status);
            return Err(OauthError::new(Remedy::Again, message));
        }
        let metadata = (answer.status == 200)
            .then(|| serde_json::from_slice::<Metadata>(&answer.body).ok())
            .flatten();
        match metadata {
            // Else one server could speak in the name of another (RFC 8414, section 3.3).
            Some(metadata) if same(&metadata.issuer, issuer) => return Ok(metadata),
            Some(metadata) => {
                let message = format!(
                    "`{url}` speaks of the issuer `{}`, not of `{issuer}`",
                    metadata.issuer
                );
                let error = OauthError::new(Remedy::Settings, message);
                return Err(error
                    .with_hint("write `issuer` as the server does, if that is the one you mean"));
            }
            None => statuses.push(answer.status.to_string()),
        }
    }
    let message = format!(
        "`{issuer}` publishes no settings that can be read (the two places answered {})",
        statuses.join(" and ")
    );
    let error = OauthError::new(Remedy::Settings, message);
    Err(error.with_hint("name `token-url` and `device-authorization-url` in place of `issuer`"))
}

/// Where settings are published: `OpenID` Connect adds to the path, RFC 8414 puts its own before it.
fn addresses(issuer: &str) -> [String; 2] {
    let issuer = issuer.trim_end_matches('/');
    let start = issuer.find("://").map_or(0, |at| at + 3);
    let path = issuer[start..]
        .find('/')
        .map_or(issuer.len(), |at| start + at);
    [
        format!("{issuer}/.well-known/openid-configuration"),
        format!(
            "{}/.well-known/oauth-authorization-server{}",
            &issuer[..path],
            &issuer[path..]
        ),
    ]
}

/// Whether two name the same issuer; a slash at the end is as often there as not.
fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_where_servers_publish() {
        assert_eq!(
            addresses("https://login.example/realms/corp/"),
            [
                "https://login.example/realms/corp/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server/realms/corp",
            ]
        );
        assert_eq!(
            addresses("https://login.example")[1],
            "https://login.example/.well-known/oauth-authorization-server"
        );
        assert!(same("https://a/", "https://a") && !same("https://a/b", "https://a"));
    }
}
