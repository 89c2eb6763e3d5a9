//! XACML 2.0 authorisation decisions in SAML 2.0 messages over SOAP 1.1, both sides.
//!
//! The identifiers are those of the grid's "attribute profile for authorisation interoperability", which GUMS and
//! SCAS speak. Messages are not signed: whoever uses this module authenticates the peer by TLS.
//!
//! | looking for | see |
//! |---|---|
//! | the question: build, write, parse | [`query`] |
//! | the answer and the SOAP fault: write, parse | [`answer`] |
//! | what an answer means to a client | [`decide`] |
//! | GUMS and SCAS as protocols | [`soap`] |
//! | bounded, namespace-aware XML | [`tree`] |
//! | URIs | [`names`] |

pub mod answer;
pub mod decide;
pub mod names;
pub mod query;
pub mod soap;
pub mod tree;

/// Why a message was not understood: one line, without the peer's control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self(identity::one_line(text.as_ref()))
    }
}

/// A random identifier that is an NCName, as SAML requires: `_` and 32 hex digits.
pub fn random_id() -> Result<String, Malformed> {
    let mut bytes = [0u8; 16];
    openssl::rand::rand_bytes(&mut bytes).map_err(|e| Malformed::new(format!("no random numbers: {e}")))?;
    Ok(format!("_{}", hex::encode(bytes)))
}

/// The present time as SAML writes it: UTC, whole seconds, `Z`.
pub fn issue_instant() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// Escapes a value for element content or an attribute.
pub(crate) fn esc(text: &str) -> std::borrow::Cow<'_, str> {
    quick_xml::escape::escape(text)
}

/// Wraps a message into an envelope. The prefixes of the message are declared on the message itself, because
/// Axis 1.4 loses those of the envelope.
pub(crate) fn envelope(body: &str) -> String {
    format!(
        concat!(
            r#"<?xml version="1.0" encoding="UTF-8"?>"#,
            "\n",
            r#"<soapenv:Envelope xmlns:soapenv="{}"><soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"#
        ),
        names::SOAP,
        body
    )
}

/// The only element in the SOAP body.
pub(crate) fn body(envelope: &tree::Element) -> Result<&tree::Element, Malformed> {
    if !envelope.is(names::SOAP, "Envelope") {
        return Err(Malformed::new(format!("not a SOAP 1.1 message: its root is {:?}", envelope.name)));
    }
    let body = envelope.need(names::SOAP, "Body")?;
    match body.children.as_slice() {
        [one] => Ok(one),
        more => Err(Malformed::new(format!("the SOAP body holds {} elements instead of one", more.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ncnames_and_differ() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert!(a.len() == 33 && a.starts_with('_') && a[1..].bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn instants_are_utc_in_whole_seconds() {
        let now = issue_instant();
        assert!(now.len() == 20 && now.ends_with('Z') && now.as_bytes()[10] == b'T', "{now}");
    }
}
