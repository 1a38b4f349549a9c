//! `[profiles.NAME.oauth]`: tokens of an OAuth 2.0 server in place of a key.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::exchange::HttpExchange;
use crate::config::paths;
use crate::error::Error;
use crate::secret::command::{HOME, KeyCommand};
use crate::secret::oauth::{ClientAuth, Endpoints, Grant, Registration};
use crate::secret::oauth_session::{ClientSecret, Session, SessionOptions};
use crate::secret::secret::Secret;
use crate::secret::vault::Keyring;

/// The table, checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct OauthTable {
    /// The server that publishes its addresses.
    pub issuer: Option<String>,
    /// The addresses that are named.
    pub endpoints: Endpoints,
    /// The application, as the server knows it.
    pub registration: Registration,
    /// Where the application's secret is.
    pub client_secret: SecretPlace,
}

/// Where the application's secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In this variable.
    Variable(String),
    /// This command prints it.
    Command(String),
    /// In the keyring, if it is anywhere.
    Keyring,
}

impl OauthTable {
    /// The login of the profile of that name. Nothing is asked for yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for a command that cannot be run, and where there is no home folder.
    pub fn session(
        &self,
        profile: &str,
        environment: &dyn Fn(&str) -> Option<String>,
        hidden: Vec<String>,
    ) -> Result<Session, Error> {
        let client_secret = match &self.client_secret {
            SecretPlace::Variable(name) => {
                ClientSecret::Variable(name.clone(), environment(name).and_then(Secret::new))
            }
            SecretPlace::Command(text) => {
                let command = KeyCommand::parse(text, environment(HOME).as_deref(), hidden);
                ClientSecret::Command(command.map_err(|why| {
                    Error::usage(format!(
                        "`client-secret-command` of the profile `{profile}`: {why}"
                    ))
                })?)
            }
            SecretPlace::Keyring => ClientSecret::Kept,
        };
        let file = paths::state_file();
        let folder = file.as_deref().and_then(Path::parent).ok_or_else(|| {
            Error::usage("there is no home folder, where processes agree on who renews a login")
        })?;
        let options = SessionOptions {
            profile: profile.to_owned(),
            issuer: self.issuer.clone(),
            endpoints: self.endpoints.clone(),
            registration: self.registration.clone(),
            client_secret,
            folder: folder.to_owned(),
        };
        Ok(Session::new(
            options,
            Box::new(HttpExchange),
            Box::new(Keyring),
        ))
    }
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    issuer: Option<String>,
    device_authorization_url: Option<String>,
    token_url: Option<String>,
    revocation_url: Option<String>,
    client_id: String,
    /// It is known so that it can be refused by name.
    client_secret: Option<IgnoredAny>,
    client_secret_env: Option<String>,
    client_secret_command: Option<String>,
    client_auth: Option<String>,
    scope: Option<String>,
    audience: Option<String>,
    resource: Option<String>,
    grant: Option<String>,
}

impl TryFrom<Written> for OauthTable {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let grant = match written.grant.as_deref() {
            None | Some("device") => Grant::Device,
            Some("client_credentials") => Grant::ClientCredentials,
            Some(_) => return Err("`grant` takes `device` or `client_credentials`".to_owned()),
        };
        let client_auth = match written.client_auth.as_deref() {
            None => None,
            Some("basic") => Some(ClientAuth::Basic),
            Some("post") => Some(ClientAuth::Post),
            Some(_) => return Err("`client-auth` takes `basic` or `post`".to_owned()),
        };
        if written.client_secret.is_some() {
            return Err(
                "`client-secret` does not belong into a file; `client-secret-env` names a variable that has it, \
                 `client-secret-command` gets it from a password manager, and the keyring can have it"
                    .to_owned(),
            );
        }
        if written.client_id.trim().is_empty() {
            return Err("`client-id` is empty".to_owned());
        }
        let client_secret = match (written.client_secret_env, written.client_secret_command) {
            (Some(_), Some(_)) => {
                return Err(
                    "`client-secret-env` and `client-secret-command` exclude each other".to_owned(),
                );
            }
            (Some(variable), None) => SecretPlace::Variable(variable),
            (None, Some(command)) => SecretPlace::Command(command),
            (None, None) => SecretPlace::Keyring,
        };
        if written.issuer.is_none() {
            if written.token_url.is_none() {
                return Err("`issuer` or `token-url` is missing".to_owned());
            }
            if grant == Grant::Device && written.device_authorization_url.is_none() {
                return Err("`issuer` or `device-authorization-url` is missing".to_owned());
            }
        }
        Ok(Self {
            issuer: written.issuer,
            endpoints: Endpoints {
                device_authorization: written.device_authorization_url,
                token: written.token_url,
                revocation: written.revocation_url,
                wants_post: false,
            },
            registration: Registration {
                client_id: written.client_id,
                client_auth,
                scope: written.scope,
                audience: written.audience,
                resource: written.resource,
                grant,
            },
            client_secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<OauthTable, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn reads_what_the_readme_shows() {
        let table = read(
            "issuer = 'https://login.example'\nclient-id = 'cli'\nscope = 'chat offline_access'",
        )
        .unwrap();
        assert_eq!(table.registration.grant, Grant::Device);
        assert_eq!(table.client_secret, SecretPlace::Keyring);
        let table = read(
            "token-url = 'https://h/t'\nclient-id = 'b'\ngrant = 'client_credentials'\n\
             client-secret-env = 'S'\nclient-auth = 'post'\naudience = 'a'\nresource = 'urn:r'",
        )
        .unwrap();
        assert_eq!(table.client_secret, SecretPlace::Variable("S".to_owned()));
        assert_eq!(table.registration.client_auth, Some(ClientAuth::Post));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, why) in [
            (
                "issuer = 'x'\nclient-id = 'a'\nclient-secret = 'canary'",
                "`client-secret` does not belong into a file; `client-secret-env` names a variable that has it, \
                 `client-secret-command` gets it from a password manager, and the keyring can have it",
            ),
            ("issuer = 'x'", "missing field `client-id`"),
            ("client-id = 'a'", "`issuer` or `token-url` is missing"),
            (
                "client-id = 'a'\ntoken-url = 'x'",
                "`issuer` or `device-authorization-url` is missing",
            ),
            ("client-id = ''\nissuer = 'x'", "`client-id` is empty"),
            (
                "client-id = 'a'\nissuer = 'x'\ngrant = 'code'",
                "`grant` takes `device` or `client_credentials`",
            ),
            (
                "client-id = 'a'\nissuer = 'x'\nclient-auth = 'jwt'",
                "`client-auth` takes `basic` or `post`",
            ),
            (
                "client-id = 'a'\nissuer = 'x'\nclient-secret-env = 'x'\nclient-secret-command = 'y'",
                "`client-secret-env` and `client-secret-command` exclude each other",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), why);
        }
    }
}
