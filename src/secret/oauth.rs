//! OAuth 2.0: what an authorization server is asked, and what it answers.
//!
//! Tokens (RFC 6749, sections 4.4 and 6), logging in on another device (RFC 8628, section 3.1), taking tokens back
//! (RFC 7009) and naming what they are for (RFC 8707). Nothing here opens a connection: whoever calls hands in an
//! [`Exchange`].
//!
//! This is no more than five forms. The `oauth2` crate would bring 18 others for them (old lines of `chrono`, `rand`,
//! `sha2` and `thiserror` among those), keeps secrets in memory that is not wiped, refuses to revoke at a server on
//! this machine, and has no discovery.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::secret::oauth_error::{OauthError, Remedy};
use crate::secret::oauth_token::{Token, seconds};
use crate::secret::redact::without;
use crate::secret::secret::Secret;

/// The code of the grant by another device (RFC 8628, section 3.4).
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How long a user's code holds where the server does not say.
const CODE_LIFETIME: Duration = Duration::from_mins(10);

/// Time between two questions where the server names none (RFC 8628, section 3.2).
const INTERVAL: Duration = Duration::from_secs(5);

/// How an application gets its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// A person allows it, on any device with a browser (RFC 8628).
    Device,
    /// The application's own credentials suffice (RFC 6749, section 4.4).
    ClientCredentials,
}

/// Where the application's secret stands in a request (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the `Authorization` header.
    Basic,
    /// In the body.
    Post,
}

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The application's name at the server.
    pub client_id: String,
    /// Where its secret goes, if the user says so.
    pub client_auth: Option<ClientAuth>,
    /// What the tokens shall allow, in the server's words.
    pub scope: Option<String>,
    /// Whom they are for, as Auth0 and others call it.
    pub audience: Option<String>,
    /// Whom they are for (RFC 8707).
    pub resource: Option<String>,
    /// How they are got.
    pub grant: Grant,
}

/// The server's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Gives codes to people.
    pub device_authorization: Option<String>,
    /// Gives tokens.
    pub token: Option<String>,
    /// Takes tokens back.
    pub revocation: Option<String>,
    /// Whether the server is known to take the application's secret only in the body.
    pub wants_post: bool,
}

/// A form (`application/x-www-form-urlencoded`), its values wiped when it is dropped.
pub type Form = Vec<(&'static str, Zeroizing<String>)>;

/// A request to the server.
#[derive(Debug)]
pub struct Call {
    /// The address: https, or this machine.
    pub url: String,
    /// What is posted; none: the address is only read.
    pub form: Option<Form>,
    /// Name and secret for the `Authorization` header.
    pub basic: Option<(String, Secret)>,
}

/// What the server said.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, which may hold tokens.
    pub body: Zeroizing<Vec<u8>>,
}

/// No answer came.
#[derive(Debug)]
pub struct Unanswered {
    /// What happened, in words for people.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Whether it can help to ask again.
    pub is_transient: bool,
}

/// Carries requests to the server, encrypted or on this machine alone, and never after a redirect.
pub trait Exchange: fmt::Debug + Send + Sync {
    /// Sends one request, once.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unanswered>>;
}

impl From<Unanswered> for OauthError {
    fn from(unanswered: Unanswered) -> Self {
        let remedy = if unanswered.is_transient {
            Remedy::Again
        } else {
            Remedy::Settings
        };
        Self {
            code: None,
            message: unanswered.message,
            hint: unanswered.hint,
            remedy,
        }
    }
}

/// The codes of a login that waits for a person (RFC 8628, section 3.2).
#[derive(Debug)]
pub struct DeviceCodes {
    /// What the server is asked with.
    pub device_code: Secret,
    /// What the person types.
    pub user_code: String,
    /// Where it is typed.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// How long the codes hold.
    pub expires_in: Duration,
    /// Time between two questions.
    pub interval: Duration,
}

/// One server, and one application that is known to it.
#[derive(Debug)]
pub struct Server<'a> {
    /// Carries the requests.
    pub exchange: &'a dyn Exchange,
    /// Its addresses.
    pub endpoints: Endpoints,
    /// The application.
    pub registration: &'a Registration,
    /// The application's secret, if it has one.
    pub client_secret: Option<Secret>,
}

impl Server<'_> {
    /// Asks for the codes of a login.
    ///
    /// # Errors
    /// When none come.
    pub async fn device_codes(&self) -> Result<DeviceCodes, OauthError> {
        #[derive(Deserialize)]
        struct Wire {
            device_code: String,
            user_code: String,
            // Google's own word for it.
            #[serde(alias = "verification_url")]
            verification_uri: String,
            verification_uri_complete: Option<String>,
            #[serde(default, deserialize_with = "seconds")]
            expires_in: Option<u64>,
            #[serde(default, deserialize_with = "seconds")]
            interval: Option<u64>,
        }
        let url = self.endpoints.device_authorization.as_ref();
        let url = url.ok_or_else(|| missing("device authorization", "device-authorization-url"))?;
        let mut form = Form::new();
        add(&mut form, "scope", self.registration.scope.as_deref());
        self.add_target(&mut form);
        let answer = self.post(url, form).await?;
        let wire: Wire = read(&answer, "codes")?;
        let device_code = Secret::new(wire.device_code);
        let Some(device_code) = device_code.filter(|_| !wire.user_code.trim().is_empty()) else {
            return Err(malformed("codes", "one of them is empty"));
        };
        Ok(DeviceCodes {
            device_code,
            user_code: wire.user_code,
            verification_uri: wire.verification_uri,
            verification_uri_complete: wire.verification_uri_complete,
            expires_in: wire.expires_in.map_or(CODE_LIFETIME, Duration::from_secs),
            // None at all would be a flood.
            interval: wire
                .interval
                .map_or(INTERVAL, Duration::from_secs)
                .max(Duration::from_secs(1)),
        })
    }

    /// Asks whether the person has allowed it.
    ///
    /// # Errors
    /// When no token comes; `authorization_pending` and `slow_down` are no end of it.
    pub async fn device_token(&self, codes: &DeviceCodes, now: u64) -> Result<Token, OauthError> {
        let mut form = vec![("grant_type", Zeroizing::new(DEVICE_GRANT.to_owned()))];
        add(&mut form, "device_code", Some(codes.device_code.expose()));
        self.add_target(&mut form);
        self.token(form, &[&codes.device_code], now).await
    }

    /// Gets a token with the application's own credentials.
    ///
    /// # Errors
    /// When no token comes.
    pub async fn client_token(&self, now: u64) -> Result<Token, OauthError> {
        let mut form = vec![(
            "grant_type",
            Zeroizing::new("client_credentials".to_owned()),
        )];
        add(&mut form, "scope", self.registration.scope.as_deref());
        self.add_target(&mut form);
        self.token(form, &[], now).await
    }

    /// Gets another token for one that was given before. The scope is left out: it stays what it was.
    ///
    /// # Errors
    /// When no token comes. Whether the refresh token was used up then is known only if the server answered.
    pub async fn refresh(&self, refresh: &Secret, now: u64) -> Result<Token, OauthError> {
        let mut form = vec![("grant_type", Zeroizing::new("refresh_token".to_owned()))];
        add(&mut form, "refresh_token", Some(refresh.expose()));
        self.add_target(&mut form);
        let mut token = self.token(form, &[refresh], now).await?;
        // A server that gives no other one leaves the old one in force (RFC 6749, section 6).
        token.refresh = token.refresh.or_else(|| Some(refresh.clone()));
        Ok(token)
    }

    /// Takes a token back. Says whether the server took it: it need not know how to, for this kind.
    ///
    /// # Errors
    /// When the server did not answer so that it can be known to have done it.
    pub async fn revoke(&self, token: &Secret, kind: &'static str) -> Result<bool, OauthError> {
        let Some(url) = &self.endpoints.revocation else {
            return Ok(false);
        };
        let mut form = vec![("token_type_hint", Zeroizing::new(kind.to_owned()))];
        add(&mut form, "token", Some(token.expose()));
        let answer = self.post(url, form).await?;
        if (200..300).contains(&answer.status) {
            return Ok(true);
        }
        let error = refusal(&answer, &self.secrets(&[token]));
        if error.code.as_deref() == Some("unsupported_token_type") {
            return Ok(false);
        }
        Err(error)
    }

    async fn token(&self, form: Form, sent: &[&Secret], now: u64) -> Result<Token, OauthError> {
        let url = self.endpoints.token.as_ref();
        let url = url.ok_or_else(|| missing("token", "token-url"))?;
        let answer = self.post(url, form).await?;
        if let Some(error) = failed(&answer, &self.secrets(sent)) {
            return Err(error);
        }
        Token::read(&answer.body, now).map_err(|why| malformed("token", &why))
    }

    async fn post(&self, url: &str, mut form: Form) -> Result<Answer, OauthError> {
        let registration = self.registration;
        let wants_post = match registration.client_auth {
            Some(auth) => auth == ClientAuth::Post,
            None => self.endpoints.wants_post,
        };
        let mut basic = None;
        match &self.client_secret {
            Some(secret) if !wants_post => {
                basic = Some((registration.client_id.clone(), secret.clone()));
            }
            secret => {
                add(&mut form, "client_id", Some(&registration.client_id));
                add(
                    &mut form,
                    "client_secret",
                    secret.as_ref().map(Secret::expose),
                );
            }
        }
        let call = Call {
            url: url.to_owned(),
            form: Some(form),
            basic,
        };
        let mut answer = self.exchange.call(call).await?;
        // Some start with a mark of the byte order, which JSON does not know.
        if answer.body.starts_with("\u{feff}".as_bytes()) {
            answer.body.drain(..3);
        }
        Ok(answer)
    }

    /// Says whom the tokens are for.
    fn add_target(&self, form: &mut Form) {
        add(form, "audience", self.registration.audience.as_deref());
        add(form, "resource", self.registration.resource.as_deref());
    }

    /// What must not be shown, should the server quote it.
    fn secrets<'s>(&'s self, sent: &[&'s Secret]) -> Vec<&'s Secret> {
        sent.iter().copied().chain(&self.client_secret).collect()
    }
}

fn add(form: &mut Form, name: &'static str, value: Option<&str>) {
    form.extend(value.map(|value| (name, Zeroizing::new(value.to_owned()))));
}

fn missing(what: &str, key: &str) -> OauthError {
    OauthError::new(
        Remedy::Settings,
        format!("the server's {what} address is not known"),
    )
    .with_hint(format!(
        "name it with `{key}`, or the server that publishes it with `issuer`"
    ))
}

fn malformed(what: &str, why: &str) -> OauthError {
    OauthError::new(
        Remedy::Settings,
        format!("the authorization server's {what} cannot be read: {why}"),
    )
}

/// The server's reason, if this is no success. Some report errors with status 200.
fn failed(answer: &Answer, secrets: &[&Secret]) -> Option<OauthError> {
    let error = refusal(answer, secrets);
    let is_success = (200..300).contains(&answer.status) && error.code.is_none();
    (!is_success).then_some(error)
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer, secrets: &[&Secret]) -> OauthError {
    #[derive(Default, Deserialize)]
    struct Wire {
        error: Option<String>,
        error_description: Option<String>,
    }
    let status = answer.status;
    let wire: Wire = serde_json::from_slice(&answer.body).unwrap_or_default();
    let hide = |text: String| {
        secrets.iter().fold(text, |text, secret| {
            without(&text, secret.expose()).unwrap_or(text)
        })
    };
    let description = wire
        .error_description
        .filter(|text| !text.trim().is_empty());
    let (code, description) = (wire.error.map(hide), description.map(hide));
    let message = match (&code, description) {
        (Some(code), Some(description)) => {
            format!("the authorization server answered `{code}`: {description}")
        }
        (Some(code), None) => format!("the authorization server answered `{code}`"),
        (None, _) => format!("the authorization server answered {status} and not in OAuth's form"),
    };
    let (remedy, hint) = match code.as_deref() {
        Some(
            "authorization_pending" | "slow_down" | "temporarily_unavailable" | "server_error",
        ) => (Remedy::Again, None),
        Some("invalid_grant" | "expired_token" | "access_denied") => (Remedy::LogIn, None),
        Some("invalid_client" | "unauthorized_client") => (
            Remedy::Settings,
            Some("check `client-id`, the client's secret, and what the server allows this client"),
        ),
        Some("invalid_scope") => (Remedy::Settings, Some("check `scope`")),
        Some("invalid_target") => (Remedy::Settings, Some("check `resource` and `audience`")),
        Some("unsupported_grant_type") => (Remedy::Settings, Some("check `grant`")),
        _ if status == 429 || status >= 500 => (Remedy::Again, None),
        Some(_) => (Remedy::Settings, None),
        None => (Remedy::Settings, Some("check the server's addresses")),
    };
    OauthError {
        code,
        message,
        hint: hint.map(str::to_owned),
        remedy,
    }
}

/// Reads a success.
fn read<'a, T: Deserialize<'a>>(answer: &'a Answer, what: &str) -> Result<T, OauthError> {
    if let Some(error) = failed(answer, &[]) {
        return Err(error);
    }
    // The error's own words could quote what was read.
    serde_json::from_slice(&answer.body)
        .map_err(|_| malformed(what, "a field is missing or of another type"))
}
