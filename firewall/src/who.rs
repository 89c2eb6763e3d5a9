//! Who asks. Pure, but for the place of what is believed at present.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::{AccountName, Dn, same_name};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Whom the site believes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Believed {
    /// Front ends: hosts that have checked passwords and say the login in a header.
    pub front_ends: Vec<IpNet>,
    /// Logins by the subject of a certificate or proxy.
    pub users: BTreeMap<Dn, AccountName>,
}

/// The same for all who ask, until the configuration changes.
#[derive(Debug, Clone)]
pub struct Now(Arc<Mutex<Arc<Believed>>>);

impl Now {
    /// From the start on.
    pub fn new(believed: Believed) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(believed))))
    }

    /// Whom the site believes now.
    pub fn get(&self) -> Arc<Believed> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Somebody else from now on.
    pub fn set(&self, believed: Believed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(believed);
    }
}

impl Believed {
    /// The login of a subject, in whatever spelling.
    pub fn login(&self, subject: &str) -> Option<&AccountName> {
        let exact = Dn::parse(subject).ok().and_then(|dn| self.users.get(&dn));
        exact.or_else(|| {
            self.users.iter().find(|(dn, _)| same_name(dn.as_str(), subject)).map(|(_, login)| login)
        })
    }
}

/// What a request shows of its sender.
#[derive(Debug, Default)]
pub struct Shown<'a> {
    /// Subject of the certificate, when there is one.
    pub subject: Option<&'a Dn>,
    /// `X-Api-User-CN` and `X-Remote-Ident`, all values.
    pub headers: Vec<&'a [u8]>,
    /// `Authorization`.
    pub basic: Option<&'a [u8]>,
}

/// Why nobody is believed to ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Nothing that could be believed.
    #[error("{0}")]
    Nobody(String),
    /// A certificate without a login.
    #[error("{0}")]
    NoLogin(String),
}

/// The login of the sender. A front end speaks for others, by header or by Basic, whose password it has checked; everybody
/// else speaks by certificate.
///
/// # Errors
/// When nothing that is believed was shown.
pub fn who(from: IpAddr, shown: &Shown<'_>, believed: &Believed) -> Result<AccountName, Unknown> {
    let from = from.to_canonical();
    let is_front_end = believed.front_ends.iter().any(|net| net.contains(&from));
    let claims = !shown.headers.is_empty() || shown.basic.is_some();
    if is_front_end && claims {
        return claimed(shown).map_err(Unknown::Nobody);
    }
    let Some(subject) = shown.subject else {
        let why = match claims {
            true => format!("{from} is no front end whose word is taken; name it in [front] addresses"),
            false => {
                "nothing says who you are; use a certificate or proxy, or come through the front end".into()
            }
        };
        return Err(Unknown::Nobody(why));
    };
    believed
        .login(subject.as_str())
        .cloned()
        .ok_or_else(|| Unknown::NoLogin(format!("{subject} has no login here; name it in [users]")))
}

fn claimed(shown: &Shown<'_>) -> Result<AccountName, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut names: Vec<String> = shown.headers.iter().map(|value| text(value)).collect();
    if let (true, Some(basic)) = (names.is_empty(), shown.basic) {
        let bad = || "Authorization: not of the form Basic LOGIN:PASSWORD in base64".to_owned();
        let (scheme, coded) =
            text(basic).split_once(' ').map(|(s, c)| (s.to_owned(), c.trim().to_owned())).ok_or_else(bad)?;
        let decoded =
            STANDARD.decode(coded).ok().filter(|_| scheme.eq_ignore_ascii_case("basic")).ok_or_else(bad)?;
        names.push(text(&decoded).split_once(':').ok_or_else(bad)?.0.to_owned());
    }
    names.dedup();
    match &names[..] {
        [one] => AccountName::parse(one).map_err(|e| format!("the front end's word is no login: {e}")),
        _ => {
            Err("the front end names several logins; X-Api-User-CN and X-Remote-Ident are to be the same"
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believed() -> Believed {
        Believed {
            front_ends: vec!["127.0.0.1/32".parse().unwrap()],
            users: [(Dn::parse("/CN=Alice").unwrap(), AccountName::parse("alice").unwrap())].into(),
        }
    }

    fn ask(from: &str, shown: Shown<'_>) -> Result<String, String> {
        let found = who(from.parse().unwrap(), &shown, &believed());
        found.map(|login| login.as_str().to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_front_end_speaks_for_others_and_nobody_else_does() {
        let header = || Shown { headers: vec![b"bob", b"bob"], ..Shown::default() };
        assert_eq!(ask("127.0.0.1", header()), Ok("bob".into()));
        assert_eq!(ask("::ffff:127.0.0.1", header()), Ok("bob".into()));
        assert!(ask("127.0.0.2", header()).unwrap_err().contains("[front] addresses"));
        let basic = || Shown { basic: Some(b"Basic Ym9iOnNlY3JldDp4"), ..Shown::default() };
        assert_eq!(ask("127.0.0.1", basic()), Ok("bob".into()));
        assert!(ask("127.0.0.2", basic()).is_err());
        let two = Shown { headers: vec![b"bob", b"alice"], ..Shown::default() };
        assert!(ask("127.0.0.1", two).unwrap_err().contains("several"));
        for bad in [&b"Basic !"[..], b"Bearer Ym9i", b"Basic", b"Basic Ym9i"] {
            assert!(ask("127.0.0.1", Shown { basic: Some(bad), ..Shown::default() }).is_err());
        }
        for bad in [&b""[..], b"a b", b"1", b"\xff"] {
            assert!(ask("127.0.0.1", Shown { headers: vec![bad], ..Shown::default() }).is_err());
        }
    }

    #[test]
    fn a_certificate_speaks_for_its_login() {
        let (alice, eve) = (Dn::parse("/CN=Alice").unwrap(), Dn::parse("/CN=Eve").unwrap());
        let by = |dn| Shown { subject: Some(dn), ..Shown::default() };
        assert_eq!(ask("192.0.2.1", by(&alice)), Ok("alice".into()));
        assert!(ask("192.0.2.1", by(&eve)).unwrap_err().contains("[users]"));
        let posing = Shown { headers: vec![b"root"], ..by(&alice) };
        assert_eq!(
            ask("192.0.2.1", posing),
            Ok("alice".into()),
            "a header from elsewhere counts for nothing"
        );
        assert!(ask("192.0.2.1", Shown::default()).is_err());
    }
}
