//! Waiting for a person to allow a login on another device (RFC 8628, sections 3.4 and 3.5).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::secret::oauth::{DeviceCodes, Server};
use crate::secret::oauth_error::{OauthError, Remedy};
use crate::secret::oauth_token::{Token, now};

/// By how much a server that wants to be asked less often is asked less often.
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// A server that fails is asked at least this often.
const MAX_INTERVAL: Duration = Duration::from_mins(1);

/// When the server is asked again, and when no more.
#[derive(Debug)]
struct Polling {
    interval: Duration,
    end: Instant,
}

impl Polling {
    fn new(codes: &DeviceCodes) -> Self {
        let begin = Instant::now();
        Self {
            interval: codes.interval,
            end: begin
                .checked_add(codes.expires_in)
                .unwrap_or(begin + Duration::from_hours(24)),
        }
    }

    /// The wait before the next question; none: the codes will not hold so long.
    fn wait(&self) -> Option<Duration> {
        (Instant::now() + self.interval < self.end).then_some(self.interval)
    }

    /// Learns from an answer that brought no token.
    ///
    /// # Errors
    /// When there is no use in asking again.
    fn learn(&mut self, error: OauthError) -> Result<(), OauthError> {
        match error.code.as_deref() {
            Some("authorization_pending") => {}
            Some("slow_down") => self.interval += SLOW_DOWN,
            Some("access_denied") => {
                return Err(
                    error.with_hint("the login was refused there: run it again to allow it")
                );
            }
            Some("expired_token") => return Err(expired()),
            _ if error.remedy == Remedy::Again => {
                let slower = self.interval.saturating_mul(2).min(MAX_INTERVAL);
                self.interval = self.interval.max(slower);
            }
            _ => return Err(error),
        }
        Ok(())
    }
}

fn expired() -> OauthError {
    let error = OauthError::new(Remedy::LogIn, "nobody entered the code while it held");
    error.with_hint("run `gptpipe login` again for another one")
}

/// Asks until the person has decided.
///
/// # Errors
/// When they refused, when the codes hold no longer, when the server knows nothing of it.
pub async fn wait(server: &Server<'_>, codes: &DeviceCodes) -> Result<Token, OauthError> {
    let mut polling = Polling::new(codes);
    while let Some(wait) = polling.wait() {
        sleep(wait).await;
        match server.device_token(codes, now()).await {
            Ok(token) => return Ok(token),
            Err(error) => polling.learn(error)?,
        }
    }
    Err(expired())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use zeroize::Zeroizing;

    use super::*;
    use crate::secret::oauth::{
        Answer, Call, Endpoints, Exchange, Grant, Registration, Unanswered,
    };

    /// Gives prepared answers and remembers when it was asked.
    #[derive(Debug)]
    struct Scripted {
        answers: Mutex<VecDeque<Option<(u16, &'static str)>>>,
        asked: Mutex<Vec<(u64, String)>>,
        begin: Instant,
    }

    impl Exchange for Scripted {
        fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unanswered>> {
            let form: Vec<String> = call
                .form
                .iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", **value))
                .collect();
            self.asked
                .lock()
                .unwrap()
                .push((self.begin.elapsed().as_secs(), form.join("&")));
            let answer = self.answers.lock().unwrap().pop_front();
            Box::pin(async move {
                match answer.expect("it must not be asked again") {
                    Some((status, body)) => Ok(Answer {
                        status,
                        body: Zeroizing::new(body.as_bytes().to_vec()),
                    }),
                    None => Err(Unanswered {
                        message: "no connection".to_owned(),
                        hint: None,
                        is_transient: true,
                    }),
                }
            })
        }
    }

    /// Logs in against these answers; gives the result and the seconds at which was asked.
    async fn log_in(
        codes: &str,
        answers: &[Option<(u16, &'static str)>],
    ) -> (Result<Token, OauthError>, Vec<u64>) {
        let codes: &'static str = codes.to_owned().leak();
        let mut script = VecDeque::from([Some((200, codes))]);
        script.extend(answers);
        let exchange = Scripted {
            answers: Mutex::new(script),
            asked: Mutex::default(),
            begin: Instant::now(),
        };
        let registration = Registration {
            client_id: "cli".to_owned(),
            client_auth: None,
            scope: Some("chat".to_owned()),
            audience: None,
            resource: None,
            grant: Grant::Device,
        };
        let server = Server {
            exchange: &exchange,
            endpoints: Endpoints {
                device_authorization: Some("d".to_owned()),
                token: Some("t".to_owned()),
                ..Endpoints::default()
            },
            registration: &registration,
            client_secret: None,
        };
        let codes = server.device_codes().await.unwrap();
        let token = wait(&server, &codes).await;
        let asked = exchange.asked.into_inner().unwrap();
        assert_eq!(asked[0].1, "scope=chat&client_id=cli");
        for (_, form) in &asked[1..] {
            let expected = "grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=dc&client_id=cli";
            assert_eq!(form, expected);
        }
        assert!(
            exchange.answers.into_inner().unwrap().is_empty(),
            "every answer must be asked for"
        );
        (token, asked[1..].iter().map(|(at, _)| *at).collect())
    }

    const TOKEN: Option<(u16, &str)> = Some((200, r#"{"access_token":"a","token_type":"Bearer"}"#));
    const PENDING: Option<(u16, &str)> = Some((400, r#"{"error":"authorization_pending"}"#));
    const SLOWER: Option<(u16, &str)> = Some((400, r#"{"error":"slow_down"}"#));

    fn codes(rest: &str) -> String {
        format!(r#"{{"device_code":"dc","user_code":"UC","verification_uri":"https://h/d"{rest}}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn asks_every_five_seconds_where_no_interval_is_named() {
        let (token, asked) = log_in(&codes(""), &[PENDING, PENDING, TOKEN]).await;
        assert_eq!(token.unwrap().access.expose(), "a");
        assert_eq!(asked, [5, 10, 15]);
    }

    #[tokio::test(start_paused = true)]
    async fn slows_down_for_good_when_asked_to() {
        let (token, asked) = log_in(
            &codes(r#","interval":2,"expires_in":600"#),
            &[PENDING, SLOWER, PENDING, SLOWER, TOKEN],
        )
        .await;
        token.unwrap();
        assert_eq!(asked, [2, 4, 11, 18, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_on_the_way_is_no_end_but_slows_down() {
        let page = Some((502, "<html>Bad Gateway</html>"));
        let (token, asked) =
            log_in(&codes(r#","interval":"1""#), &[None, page, PENDING, TOKEN]).await;
        token.unwrap();
        assert_eq!(asked, [1, 3, 7, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_with_status_200_is_one() {
        let pending = Some((200, r#"{"error":"authorization_pending"}"#));
        let (token, asked) = log_in(&codes(r#","interval":0"#), &[pending, TOKEN]).await;
        token.unwrap();
        assert_eq!(asked, [1, 2], "an interval of none would be a flood");
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_person_refused() {
        let denied = Some((
            400,
            r#"{"error":"access_denied","error_description":"no dc for UC"}"#,
        ));
        let (token, asked) = log_in(&codes(""), &[PENDING, denied]).await;
        let error = token.unwrap_err();
        assert_eq!(
            error.message,
            "the authorization server answered `access_denied`: no [redacted] for UC"
        );
        assert_eq!((error.remedy, asked), (Remedy::LogIn, vec![5, 10]));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_code_has() {
        let (token, asked) = log_in(&codes(r#","expires_in":12"#), &[PENDING, PENDING]).await;
        assert_eq!(token.unwrap_err().message, expired().message);
        assert_eq!(asked, [5, 10], "the next question would come after its end");
        let (token, _) = log_in(&codes(""), &[Some((400, r#"{"error":"expired_token"}"#))]).await;
        assert_eq!(token.unwrap_err().message, expired().message);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_server_knows_nothing_of_it() {
        let (token, _) = log_in(&codes(""), &[Some((401, r#"{"error":"invalid_client"}"#))]).await;
        assert_eq!(token.unwrap_err().remedy, Remedy::Settings);
        let (token, _) = log_in(&codes(""), &[Some((404, "nothing here"))]).await;
        assert!(
            token
                .unwrap_err()
                .message
                .ends_with("answered 404 and not in OAuth's form")
        );
    }
}
