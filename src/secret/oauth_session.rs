//! A profile's login: a token for each request, renewed when it has to be.
//!
//! Servers give another refresh token each time, and take one that comes a second time for theft: they then revoke all
//! that came from the same login. So of all processes of a user one renews at a time. One lock covers reading what is
//! kept, renewing it and keeping what came, and nobody uses a token before it is kept. Whoever had to wait finds what
//! the other has kept.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::error::{Error, reason};
use crate::secret::command::KeyCommand;
use crate::secret::keyring::KeyringError;
use crate::secret::lock::{Lock, lock};
use crate::secret::oauth::{DeviceCodes, Endpoints, Exchange, Grant, Registration, Server};
use crate::secret::oauth_device;
use crate::secret::oauth_discovery::discover;
use crate::secret::oauth_error::{OauthError, Remedy};
use crate::secret::oauth_token::{Token, now};
use crate::secret::secret::Secret;
use crate::secret::token::TokenSource;
use crate::secret::vault::Vault;

/// How long another process may hold the lock: two questions to the server, and a keyring that asks its user.
const PATIENCE: Duration = Duration::from_mins(3);

/// How long a token that is on its way is waited for at the end of a run.
const LAST: Duration = Duration::from_secs(5);

/// The first wait before a renewal is tried again, and the last; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(4);

/// Where the application's secret is, if it has one.
#[derive(Clone, Debug)]
pub enum ClientSecret {
    /// In a variable, if it is set.
    Variable(String, Option<Secret>),
    /// A program writes it.
    Command(KeyCommand),
    /// In the keyring, as `PROFILE client-secret`; where it is not, there is none.
    Kept,
}

/// Whose login it is, and how it is renewed.
#[derive(Debug)]
pub struct SessionOptions {
    /// The profile's name.
    pub profile: String,
    /// The server that publishes its addresses, if it is named.
    pub issuer: Option<String>,
    /// The addresses that are named.
    pub endpoints: Endpoints,
    /// The application.
    pub registration: Registration,
    /// The application's secret, if it has one.
    pub client_secret: ClientSecret,
    /// The folder of the lock; it need not exist.
    pub folder: PathBuf,
}

/// A profile's login.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: SessionOptions,
    exchange: Box<dyn Exchange>,
    vault: Box<dyn Vault>,
    /// The token in use. Whoever renews it holds this all the while.
    token: Arc<Mutex<Option<Token>>>,
}

/// What became of a login that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// There was none.
    Nothing,
    /// The server knows it no more.
    AtServer,
    /// The server has no way to be told; the tokens hold until they run out.
    OnlyHere,
    /// It was got with other settings, so that it is not known which server to tell.
    Unknown,
}

impl Session {
    /// A login that may be there already.
    #[must_use]
    pub fn new(
        options: SessionOptions,
        exchange: Box<dyn Exchange>,
        vault: Box<dyn Vault>,
    ) -> Self {
        Self(Arc::new(Inner {
            options,
            exchange,
            vault,
            token: Arc::default(),
        }))
    }

    /// The profile's name.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.0.options.profile
    }

    /// How its tokens are got.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.0.options.registration.grant
    }

    /// Logs in: `show` tells the person what to do, and the server is asked until it is done.
    ///
    /// # Errors
    /// When there is no login then. The keyring has been tried before anybody is asked for anything.
    pub async fn log_in(&self, show: impl FnOnce(&DeviceCodes)) -> Result<Token, OauthError> {
        let inner = &*self.0;
        if inner.options.registration.grant == Grant::Device {
            inner.try_keyring().await.map_err(|error| unkept(&error))?;
        }
        let server = inner.server().await?;
        let token = match inner.options.registration.grant {
            Grant::ClientCredentials => server.client_token(now()).await?,
            Grant::Device => {
                let codes = server.device_codes().await?;
                show(&codes);
                oauth_device::wait(&server, &codes).await?
            }
        };
        let _lock = inner.lock().await?;
        match (inner.keep(&token).await, inner.options.registration.grant) {
            (Err(error), Grant::Device) => Err(error),
            _ => Ok(token),
        }
    }

    /// Takes the login back, at the server and here.
    ///
    /// # Errors
    /// When the server did not take it back; what is kept is left then, so that it can be tried again.
    pub async fn revoke(&self) -> Result<Revoked, OauthError> {
        let inner = &*self.0;
        let _lock = inner.lock().await?;
        let user = inner.user();
        let Some(kept) = inner
            .vault
            .read(&user)
            .await
            .map_err(|error| unkept(&error))?
        else {
            return Ok(Revoked::Nothing);
        };
        let mut revoked = Revoked::Unknown;
        // What was got with other settings belongs to another server, perhaps, and is none of this one's business.
        if let Some(token) = Token::load(&kept, &inner.settings()) {
            let server = inner.server().await?;
            revoked = Revoked::OnlyHere;
            let refresh = token.refresh.as_ref().map(|token| (token, "refresh_token"));
            for (token, kind) in refresh.into_iter().chain([(&token.access, "access_token")]) {
                if server.revoke(token, kind).await? {
                    revoked = Revoked::AtServer;
                }
            }
        }
        inner
            .vault
            .remove(&user)
            .await
            .map_err(|error| unkept(&error))?;
        Ok(revoked)
    }

    /// Waits for a token that is on its way, so that it is not lost with the process: the one before it may hold no
    /// more.
    pub async fn finish(&self) {
        let _ = tokio::time::timeout(LAST, self.0.token.lock()).await;
    }

    /// A token that can be sent, and is not the one that was refused.
    async fn token(&self, refused: Option<&Secret>) -> Result<Secret, OauthError> {
        let mut token = Arc::clone(&self.0.token).lock_owned().await;
        if let Some(token) = token.as_ref().filter(|token| is_usable(token, refused)) {
            return Ok(token.access.clone());
        }
        let (inner, refused) = (Arc::clone(&self.0), refused.cloned());
        // It goes on when nobody waits any more: what the server has given out by then must be kept.
        let renewal = tokio::spawn(async move {
            let other = inner.renew_patiently(refused.as_ref()).await?;
            Ok(token.insert(other).access.clone())
        });
        renewal.await.unwrap_or_else(|_| {
            Err(OauthError::new(
                Remedy::Again,
                "the renewal of the token broke off",
            ))
        })
    }
}

impl TokenSource for Session {
    fn get(&self) -> BoxFuture<'_, Result<Secret, Error>> {
        Box::pin(async move { Ok(self.token(None).await?) })
    }

    fn renew<'a>(&'a self, refused: &'a Secret) -> BoxFuture<'a, Result<Secret, Error>> {
        Box::pin(async move { Ok(self.token(Some(refused)).await?) })
    }
}

impl Inner {
    /// What fails for now is tried again: without a token, every request of the run would fail.
    async fn renew_patiently(&self, refused: Option<&Secret>) -> Result<Token, OauthError> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.renew(refused).await {
                Err(error) if error.remedy == Remedy::Again && wait <= LAST_WAIT => {
                    sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
                    wait *= 2;
                }
                result => return result,
            }
        }
    }

    async fn renew(&self, refused: Option<&Secret>) -> Result<Token, OauthError> {
        let is_batch = self.options.registration.grant == Grant::ClientCredentials;
        // Most processes find a token that holds, and need no lock for that.
        let kept = match self.kept().await {
            Ok(kept) => kept,
            // Where there is no keyring, each process gets a token of its own: nothing is lost with it.
            Err(_) if is_batch => return self.server().await?.client_token(now()).await,
            Err(error) => return Err(unkept(&error)),
        };
        if let Some(token) = kept.filter(|token| is_usable(token, refused)) {
            return Ok(token);
        }
        let _lock = self.lock().await?;
        let kept = self.kept().await.map_err(|error| unkept(&error))?;
        let kept = match kept {
            Some(token) if is_usable(&token, refused) => return Ok(token),
            kept => kept,
        };
        let server = self.server().await?;
        if is_batch {
            let token = server.client_token(now()).await?;
            // It can be had again.
            let _ = self.keep(&token).await;
            return Ok(token);
        }
        let kept = kept.ok_or_else(|| self.without_login())?;
        let refresh = kept.refresh.as_ref().ok_or_else(|| self.over())?;
        // The server takes the old one back as it gives the other, so the keyring has to have shown that it keeps
        // what it is given.
        self.keep(&kept).await?;
        let token = server.refresh(refresh, now()).await.map_err(|error| {
            if error.code.as_deref() == Some("invalid_grant") {
                OauthError {
                    message: format!("{} ({})", self.over().message, error.message),
                    hint: self.over().hint,
                    ..error
                }
            } else {
                error
            }
        })?;
        self.keep(&token).await?;
        Ok(token)
    }

    /// The server, with its addresses found.
    async fn server(&self) -> Result<Server<'_>, OauthError> {
        let options = &self.options;
        let issuer = options.issuer.as_deref();
        Ok(Server {
            exchange: &*self.exchange,
            endpoints: discover(&*self.exchange, issuer, &options.endpoints).await?,
            registration: &options.registration,
            client_secret: self.client_secret().await?,
        })
    }

    async fn client_secret(&self) -> Result<Option<Secret>, OauthError> {
        let options = &self.options;
        match &options.client_secret {
            ClientSecret::Variable(_, Some(secret)) => Ok(Some(secret.clone())),
            ClientSecret::Variable(name, None) => {
                let message =
                    format!("the variable `{name}`, which `client-secret-env` names, is not set");
                Err(OauthError::new(Remedy::Settings, message))
            }
            ClientSecret::Command(command) => match command.run().await {
                Ok(written) => Ok(Some(written.secret)),
                Err(why) => {
                    let error = OauthError::new(Remedy::Settings, why);
                    Err(error.with_hint("try `client-secret-command` in a shell"))
                }
            },
            ClientSecret::Kept => {
                let user = format!("{} client-secret", options.profile);
                match self.vault.read(&user).await {
                    Ok(None) if options.registration.grant == Grant::ClientCredentials => {
                        let message = format!(
                            "the client `{}` has no secret",
                            options.registration.client_id
                        );
                        let error = OauthError::new(Remedy::Settings, message);
                        Err(error.with_hint(format!(
                            "name its place with `client-secret-env` or `client-secret-command`, or keep it in the \
                             keyring, as `{user}`"
                        )))
                    }
                    read => read.map_err(|error| unkept(&error)),
                }
            }
        }
    }

    async fn kept(&self) -> Result<Option<Token>, KeyringError> {
        let text = self.vault.read(&self.user()).await?;
        Ok(text.and_then(|text| Token::load(&text, &self.settings())))
    }

    /// Whether the keyring takes anything. A locked one says of what is not in it just that.
    async fn try_keyring(&self) -> Result<(), KeyringError> {
        let user = format!("{} test", self.user());
        if let Some(text) = Secret::new("test".to_owned()) {
            self.vault.write(&user, &text).await?;
        }
        self.vault.remove(&user).await
    }

    async fn keep(&self, token: &Token) -> Result<(), OauthError> {
        let text = token.store(&self.settings());
        let text = text
            .ok_or_else(|| OauthError::new(Remedy::Settings, "the token cannot be written down"))?;
        self.vault
            .write(&self.user(), &text)
            .await
            .map_err(|error| unkept(&error))
    }

    /// The entry's name in the keyring.
    fn user(&self) -> String {
        format!("{} oauth", self.options.profile)
    }

    /// Tells apart what tokens were got with: one of another server or application is of no use, and must not be
    /// shown to this one.
    fn settings(&self) -> String {
        let options = &self.options;
        let registration = &options.registration;
        let mut hasher = blake3::Hasher::new_derive_key("gptpipe 2026-11 oauth settings");
        let parts = [
            options.issuer.as_deref(),
            options.endpoints.token.as_deref(),
            Some(registration.client_id.as_str()),
            registration.scope.as_deref(),
            registration.audience.as_deref(),
            registration.resource.as_deref(),
            Some(match registration.grant {
                Grant::Device => "device",
                Grant::ClientCredentials => "client_credentials",
            }),
        ];
        for part in parts {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(part.unwrap_or_default().as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    async fn lock(&self) -> Result<Lock, OauthError> {
        // A profile's name may be no file's name.
        let name = blake3::hash(self.options.profile.as_bytes()).to_hex();
        let path = self
            .options
            .folder
            .join(format!("oauth-{}.lock", &name[..16]));
        lock(&path, PATIENCE).await.map_err(|error| {
            let shown = path.display();
            if error.kind() == io::ErrorKind::TimedOut {
                let time = humantime::format_duration(PATIENCE);
                let message = format!("another process has held the lock `{shown}` for {time}");
                return OauthError::new(Remedy::Again, message);
            }
            let message = format!("the lock `{shown}` cannot be used: {}", reason(&error));
            OauthError::new(Remedy::Settings, message)
        })
    }

    fn without_login(&self) -> OauthError {
        let profile = &self.options.profile;
        let message = format!(
            "there is no login for the profile `{profile}`, or its settings have changed since"
        );
        OauthError::new(Remedy::LogIn, message).with_hint(self.how_to_log_in())
    }

    fn over(&self) -> OauthError {
        let profile = &self.options.profile;
        let message = format!("the login for the profile `{profile}` has ended");
        OauthError::new(Remedy::LogIn, message).with_hint(self.how_to_log_in())
    }

    fn how_to_log_in(&self) -> String {
        format!("run `gptpipe login -P {}`", self.options.profile)
    }
}

fn is_usable(token: &Token, refused: Option<&Secret>) -> bool {
    token.is_fresh(now()) && refused.is_none_or(|refused| refused.expose() != token.access.expose())
}

/// The keyring did not take a token, or did not give it.
fn unkept(error: &KeyringError) -> OauthError {
    let message = format!("tokens are kept in the keyring, and it cannot be used: {error}");
    let remedy = match error {
        KeyringError::TooSlow(_) => Remedy::Again,
        _ => Remedy::Settings,
    };
    let hint = error.hint();
    OauthError::new(remedy, message).with_hint(hint)
}

#[cfg(test)]
mod tests;
