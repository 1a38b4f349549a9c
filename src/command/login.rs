//! `gptpipe login`: a profile's tokens, got and given back.

use std::time::Duration;

use crate::api::words::clean;
use crate::error::Error;
use crate::report::message;
use crate::secret::oauth::{DeviceCodes, Grant};
use crate::secret::oauth_error::OauthError;
use crate::secret::oauth_session::{Revoked, Session};

/// Logs in, and tells the person on standard error what to do for that.
///
/// # Errors
/// Why there is no login.
pub async fn log_in(session: &Session) -> Result<(), Error> {
    let profile = session.profile();
    let token = session
        .log_in(|codes| show(profile, codes))
        .await
        .map_err(told)?;
    let holds = match token.lifetime {
        Some(seconds) => format!("its token holds for {}", time(seconds)),
        None => "how long its token holds, the server does not say".to_owned(),
    };
    message::tell(&match (session.grant(), token.refresh) {
        (Grant::ClientCredentials, _) => format!(
            "the profile `{profile}` gets its tokens by itself and needs no login; the server gave one, and {holds}"
        ),
        (Grant::Device, Some(_)) => format!(
            "logged in to the profile `{profile}`; it is kept in the keyring and renewed by itself"
        ),
        (Grant::Device, None) => format!(
            "logged in to the profile `{profile}`; {holds} and is not renewed (many servers do that only with \
             `offline_access` in `scope`)"
        ),
    });
    Ok(())
}

/// Gives the login back.
///
/// # Errors
/// When there is none, or the server did not take it.
pub async fn revoke(session: &Session) -> Result<(), Error> {
    let profile = session.profile();
    match session.revoke().await.map_err(told)? {
        Revoked::Nothing => {
            return Err(Error::usage(format!(
                "there is no login for the profile `{profile}`"
            )));
        }
        Revoked::AtServer => message::tell(&format!(
            "the login for the profile `{profile}` is revoked, and gone from the keyring"
        )),
        Revoked::OnlyHere => message::tell(&format!(
            "the login for the profile `{profile}` is gone from the keyring; the server has no way to revoke it, so \
             its tokens hold until they run out"
        )),
        Revoked::Unknown => message::tell(&format!(
            "what the keyring had for the profile `{profile}` is gone; it was got with other settings, so no server was \
             told"
        )),
    }
    Ok(())
}

fn show(profile: &str, codes: &DeviceCodes) {
    message::tell(&format!(
        "to log in to the profile `{profile}`, open this page on any device:"
    ));
    message::plain(&format!("    {}", codes.verification_uri));
    message::tell("and enter this code there:");
    message::plain(&format!("    {}", codes.user_code));
    if let Some(complete) = &codes.verification_uri_complete {
        message::tell("or open the page with the code in it:");
        message::plain(&format!("    {complete}"));
    }
    let holds = time(codes.expires_in.as_secs());
    message::tell(&format!(
        "waiting; the code holds for {holds}, Ctrl-C ends it"
    ));
}

fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// What a server said is fit for a terminal then, and has no keys in it.
fn told(mut error: OauthError) -> Error {
    error.message = clean(&error.message);
    error.into()
}
