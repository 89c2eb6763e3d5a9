//! The question: may this subject run here, and as whom?

use super::names::{self, action, environment, resource, subject};
use super::tree::{self, Element};
use super::{Malformed, esc};
use crate::protocol::{Host, Person};
use identity::Dn;
use std::fmt::Write;

/// An attribute of the subject, the resource, the action or the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// URI that says what it is.
    pub id: String,
    /// URI of its type.
    pub data_type: String,
    /// Who vouches for it.
    pub issuer: Option<String>,
    /// Its values, blanks at both ends removed.
    pub values: Vec<String>,
}

impl Attribute {
    fn string(id: &str, value: &str) -> Self {
        Self { id: id.into(), data_type: names::XS_STRING.into(), issuer: None, values: vec![value.into()] }
    }

    fn issued_by(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.into());
        self
    }
}

/// A whole decision query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// SAML id, to be found again in the answer. Old clients leave it out or repeat it.
    pub id: Option<String>,
    /// Who asks, as the message claims; TLS knows better.
    pub issuer: Option<String>,
    /// The access subject.
    pub subject: Vec<Attribute>,
    /// The host.
    pub resource: Vec<Attribute>,
    /// What is to be done.
    pub action: Vec<Attribute>,
    /// What the client is able to do.
    pub environment: Vec<Attribute>,
}

impl Query {
    /// The question "as whom does this person run on this host?".
    pub fn mapping(id: String, person: &Person, host: &Host, obligations: &[&str]) -> Self {
        Self {
            id: Some(id),
            issuer: Some(host.issuer.clone()),
            subject: subject_attributes(person),
            resource: resource_attributes(host),
            action: vec![Attribute::string(action::ID, action::EXECUTE_NOW)],
            environment: obligations.iter().map(|o| Attribute::string(environment::SUPPORTED, o)).collect(),
        }
    }

    /// Adds the subject's chain. The profile types it as base64; on the wire it is PEM text, which SCAS reads.
    pub fn add_chain(&mut self, pem: &str) {
        let base64 = names::XS_BASE64.to_owned();
        self.subject.push(Attribute { data_type: base64, ..Attribute::string(subject::CHAIN, pem.trim()) });
    }

    /// The SOAP message.
    pub fn encode(&self, issue_instant: &str) -> String {
        let mut xml = format!(
            concat!(
                r#"<q:XACMLAuthzDecisionQuery xmlns:q="{}" xmlns:saml="{}" xmlns:ctx="{}" xmlns:xsi="{}" ID="{}" "#,
                r#"Version="2.0" IssueInstant="{}" InputContextOnly="false" ReturnContext="false">"#,
                r#"<saml:Issuer Format="urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName">{}</saml:Issuer>"#,
                r#"<ctx:Request><ctx:Subject SubjectCategory="{}">"#
            ),
            names::XACML_SAMLP,
            names::SAML,
            names::CONTEXT,
            names::XSI,
            esc(self.id.as_deref().unwrap_or("_0")),
            esc(issue_instant),
            esc(self.issuer.as_deref().unwrap_or("unknown")),
            names::ACCESS_SUBJECT,
        );
        write_attributes(&mut xml, &self.subject);
        xml.push_str("</ctx:Subject><ctx:Resource>");
        write_attributes(&mut xml, &self.resource);
        xml.push_str("</ctx:Resource><ctx:Action>");
        write_attributes(&mut xml, &self.action);
        xml.push_str("</ctx:Action><ctx:Environment>");
        write_attributes(&mut xml, &self.environment);
        xml.push_str("</ctx:Environment></ctx:Request></q:XACMLAuthzDecisionQuery>");
        super::envelope(&xml)
    }

    /// Reads a SOAP message. What only careless clients leave out (ids, times, issuer, action, environment) may be
    /// missing; the subject and the resource may not.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let root = tree::parse(bytes)?;
        let query = super::body(&root)?;
        if !query.is(names::XACML_SAMLP, "XACMLAuthzDecisionQuery") {
            return Err(Malformed::new(format!(
                "{:?} in {:?} is not implemented",
                query.name, query.namespace
            )));
        }
        let request = query.need(names::CONTEXT, "Request")?;
        let part = |name| match request.one(names::CONTEXT, name)? {
            Some(part) => read_attributes(part),
            None => Ok(Vec::new()),
        };
        Ok(Self {
            id: query.attribute("ID").map(str::to_owned),
            issuer: query.one(names::SAML, "Issuer")?.map(|i| i.text.trim().to_owned()),
            subject: read_attributes(access_subject(request)?)?,
            resource: read_attributes(request.need(names::CONTEXT, "Resource")?)?,
            action: part("Action")?,
            environment: part("Environment")?,
        })
    }

    /// The only value of an attribute of the subject.
    pub fn subject_value(&self, id: &str) -> Option<&str> {
        value(&self.subject, id)
    }

    /// The only value of an attribute of the resource.
    pub fn resource_value(&self, id: &str) -> Option<&str> {
        value(&self.resource, id)
    }

    /// Whether the client says that it can carry out an obligation.
    pub fn supports(&self, obligation: &str) -> bool {
        let lists =
            |a: &&Attribute| [environment::SUPPORTED, environment::SUPPORTED_2008].contains(&a.id.as_str());
        self.environment.iter().filter(lists).any(|a| a.values.iter().any(|v| v == obligation))
    }

    /// The FQANs of the subject, primary first and once each, with whether the client has verified it.
    ///
    /// An FQAN counts as verified when its XML attribute `Issuer` is anything but `issuer/none`: the claim of an
    /// authenticated client that it checked the attribute certificate, as GUMS understands it.
    pub fn fqans(&self) -> Vec<(&str, bool)> {
        let of = |id: &'static str| self.subject.iter().filter(move |a| a.id == id);
        let mut found: Vec<(&str, bool)> = Vec::new();
        for attribute in of(subject::PRIMARY_FQAN).take(1).chain(of(subject::FQAN)) {
            let issuer = attribute.issuer.as_deref().unwrap_or_default();
            let verified = !issuer.is_empty() && issuer != subject::ISSUER_NONE;
            for fqan in &attribute.values {
                if !found.iter().any(|(known, _)| same_fqan(known, fqan)) {
                    found.push((fqan, verified));
                }
            }
        }
        found
    }
}

/// An FQAN without `/Capability=..` and without `/Role=NULL`, the form that GUMS compares.
pub fn short_fqan(fqan: &str) -> &str {
    let fqan = strip_ignoring_case(fqan, "/Capability=NULL");
    strip_ignoring_case(fqan, "/Role=NULL")
}

/// Whether two FQANs mean the same: letter case and absent role or capability do not count.
pub fn same_fqan(a: &str, b: &str) -> bool {
    short_fqan(a).eq_ignore_ascii_case(short_fqan(b))
}

fn strip_ignoring_case<'a>(text: &'a str, end: &str) -> &'a str {
    let cut = text.len().saturating_sub(end.len());
    match text.get(cut..) {
        Some(tail) if tail.eq_ignore_ascii_case(end) => &text[..cut],
        _ => text,
    }
}

fn subject_attributes(person: &Person) -> Vec<Attribute> {
    let mut all = vec![Attribute::string(subject::DN, person.subject.as_str())];
    let mut dn = |id, value: &Option<Dn>| {
        if let Some(value) = value {
            all.push(Attribute::string(id, value.as_str()));
        }
    };
    dn(subject::ISSUER, &person.issuer);
    dn(subject::VOMS_SIGNER, &person.signer);
    dn(subject::VOMS_SIGNER_ISSUER, &person.signer_issuer);
    if let Some(primary) = person.fqans.first() {
        all.push(Attribute::string(subject::VO, primary.vo()));
        let vouched = |a: Attribute| match &person.signer {
            Some(signer) => a.issued_by(signer.as_str()),
            None => a,
        };
        all.push(vouched(Attribute::string(subject::PRIMARY_FQAN, short_fqan(primary.as_str()))));
        all.extend(person.fqans.iter().map(|f| vouched(Attribute::string(subject::FQAN, f.as_str()))));
    }
    if let Some(serial) = person.serial.as_deref().and_then(decimal) {
        let integer = names::XS_INTEGER.to_owned();
        all.push(Attribute { data_type: integer, ..Attribute::string(subject::SERIAL, &serial) });
    }
    all
}

fn resource_attributes(host: &Host) -> Vec<Attribute> {
    let mut all = vec![
        Attribute::string(resource::ID, resource::WORKER_NODE),
        Attribute::string(resource::HOST, &host.name),
    ];
    if let Some((subject, issuer)) = &host.certificate {
        all.push(Attribute::string(resource::DN, subject.as_str()));
        all.push(Attribute::string(resource::ISSUER, issuer.as_str()));
    }
    all
}

/// Serial numbers have up to 20 bytes, so this takes OpenSSL's big numbers.
fn decimal(hex: &str) -> Option<String> {
    let number = openssl::bn::BigNum::from_hex_str(hex).ok()?;
    Some(number.to_dec_str().ok()?.to_string())
}

fn write_attributes(xml: &mut String, attributes: &[Attribute]) {
    for a in attributes {
        let _ =
            write!(xml, r#"<ctx:Attribute AttributeId="{}" DataType="{}""#, esc(&a.id), esc(&a.data_type));
        if let Some(issuer) = &a.issuer {
            let _ = write!(xml, r#" Issuer="{}""#, esc(issuer));
        }
        xml.push('>');
        for value in &a.values {
            let _ = write!(xml, "<ctx:AttributeValue>{}</ctx:AttributeValue>", esc(value));
        }
        xml.push_str("</ctx:Attribute>");
    }
}

fn read_attributes(part: &Element) -> Result<Vec<Attribute>, Malformed> {
    part.all(names::CONTEXT, "Attribute").map(read_attribute).collect()
}

fn read_attribute(element: &Element) -> Result<Attribute, Malformed> {
    let id =
        element.attribute("AttributeId").ok_or_else(|| Malformed::new("an Attribute has no AttributeId"))?;
    Ok(Attribute {
        id: id.trim().to_owned(),
        data_type: element.attribute("DataType").unwrap_or(names::XS_STRING).trim().to_owned(),
        issuer: element.attribute("Issuer").map(str::to_owned),
        values: element.all(names::CONTEXT, "AttributeValue").map(|v| v.text.trim().to_owned()).collect(),
    })
}

fn access_subject(request: &Element) -> Result<&Element, Malformed> {
    let is_access = |s: &&Element| s.attribute("SubjectCategory").is_none_or(|c| c == names::ACCESS_SUBJECT);
    let mut subjects = request.all(names::CONTEXT, "Subject").filter(is_access);
    match (subjects.next(), subjects.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Malformed::new("the Request has no access subject")),
        _ => Err(Malformed::new("the Request has several access subjects")),
    }
}

/// The value of an attribute that stands once with one value; anything else is no value at all.
fn value<'a>(attributes: &'a [Attribute], id: &str) -> Option<&'a str> {
    let mut values = attributes.iter().filter(|a| a.id == id).flat_map(|a| &a.values);
    match (values.next(), values.next()) {
        (Some(one), None) if !one.is_empty() => Some(one),
        _ => None,
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
