//! The answer of a mapping service, and the SOAP fault in its place.

use super::names;
use super::tree::{self, Element};
use super::{Malformed, esc};
use std::fmt::Write;

/// Everything that may come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A decision.
    Answer(Answer),
    /// A SAML status other than Success: the service refused to decide, whatever else the message says.
    Refused {
        /// `InResponseTo` of the message.
        in_response_to: Option<String>,
        /// The URI of the status, and its message.
        status: String,
    },
    /// A SOAP fault.
    Fault(Fault),
}

/// XACML's four decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Let the subject in, and carry out the obligations.
    Permit,
    /// Do not.
    Deny,
    /// The service could not decide.
    Indeterminate,
    /// No rule of the service speaks of this request.
    NotApplicable,
}

impl Decision {
    const ALL: [Decision; 4] = [Self::Permit, Self::Deny, Self::Indeterminate, Self::NotApplicable];

    /// As it is written on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Permit => "Permit",
            Decision::Deny => "Deny",
            Decision::Indeterminate => "Indeterminate",
            Decision::NotApplicable => "NotApplicable",
        }
    }
}

/// A decision with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Id of the query, when the service gives it.
    pub in_response_to: Option<String>,
    /// The decision.
    pub decision: Decision,
    /// The service's reason, when it gives one (`StatusMessage`).
    pub message: Option<String>,
    /// What the client has to do, for whichever decision.
    pub obligations: Vec<Obligation>,
}

/// Something that the client has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligation {
    /// URI that says what.
    pub id: String,
    /// The decision it belongs to, `Permit` or `Deny`.
    pub fulfill_on: String,
    /// Attribute URI and value, blanks at both ends removed.
    pub assignments: Vec<(String, String)>,
}

impl Obligation {
    /// An obligation of a Permit.
    pub fn on_permit(id: &str, assignments: Vec<(String, String)>) -> Self {
        Self { id: id.into(), fulfill_on: "Permit".into(), assignments }
    }
}

/// A SOAP 1.1 fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Local name of the fault code.
    pub code: String,
    /// What went wrong, in the service's words.
    pub reason: String,
}

/// Reads an answer or a fault. Ids, times, issuers and the SAML status may be missing, as GUMS leaves them out.
pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let root = tree::parse(bytes)?;
    let message = super::body(&root)?;
    if message.is(names::SOAP, "Fault") {
        return Ok(Message::Fault(read_fault(message)));
    }
    if !message.is(names::SAMLP, "Response") {
        return Err(Malformed::new(format!(
            "{:?} in {:?} is no SAML Response",
            message.name, message.namespace
        )));
    }
    let in_response_to = message.attribute("InResponseTo").map(str::to_owned);
    if let Some(status) = saml_failure(message)? {
        return Ok(Message::Refused { in_response_to, status });
    }
    let result = only_result(message)?;
    let status = result.one(names::CONTEXT, "Status")?;
    let text = status.and_then(|s| s.all(names::CONTEXT, "StatusMessage").next());
    Ok(Message::Answer(Answer {
        in_response_to,
        decision: read_decision(result.need(names::CONTEXT, "Decision")?)?,
        message: text.map(|t| t.text.trim().to_owned()).filter(|t| !t.is_empty()),
        obligations: read_obligations(result)?,
    }))
}

fn read_fault(fault: &Element) -> Fault {
    // SOAP 1.1 leaves these two without a namespace; some toolkits put them into the envelope's.
    let part = |name| fault.children.iter().find(|c| c.name == name).map_or("", |c| c.text.trim());
    let code = part("faultcode");
    Fault { code: code.rsplit(':').next().unwrap_or(code).to_owned(), reason: part("faultstring").to_owned() }
}

/// The status of a Response that is not a success; a missing status is none.
fn saml_failure(response: &Element) -> Result<Option<String>, Malformed> {
    let Some(status) = response.one(names::SAMLP, "Status")? else {
        return Ok(None);
    };
    let code = status.need(names::SAMLP, "StatusCode")?.attribute("Value").unwrap_or("no value").trim();
    if code == names::SAML_SUCCESS {
        return Ok(None);
    }
    let message = status.one(names::SAMLP, "StatusMessage")?.map_or("", |m| m.text.trim());
    Ok(Some(format!("{code} {message}").trim_end().to_owned()))
}

/// One Assertion, one Statement, one Response, one Result: with several, services could contradict themselves.
fn only_result(response: &Element) -> Result<&Element, Malformed> {
    let assertion = response.need(names::SAML, "Assertion")?;
    let decisive = |e: &&Element| {
        e.is(names::SAML, "Statement") || e.is(names::XACML_SAML, "XACMLAuthzDecisionStatement")
    };
    let mut statements = assertion.children.iter().filter(decisive);
    let statement = match (statements.next(), statements.next()) {
        (Some(one), None) => one,
        (None, _) => return Err(Malformed::new("the Assertion has no decision statement")),
        _ => return Err(Malformed::new("the Assertion has several decision statements")),
    };
    if let Some((namespace, name)) = &statement.xsi_type {
        let known = namespace.as_deref().is_none_or(|n| n == names::XACML_SAML);
        if !known || name != "XACMLAuthzDecisionStatementType" {
            return Err(Malformed::new(format!(
                "a statement of type {name:?} in {namespace:?} is not understood"
            )));
        }
    }
    statement.need(names::CONTEXT, "Response")?.need(names::CONTEXT, "Result")
}

fn read_decision(element: &Element) -> Result<Decision, Malformed> {
    let text = element.text.trim();
    let known = Decision::ALL.into_iter().find(|d| d.name() == text);
    known.ok_or_else(|| Malformed::new(format!("the decision {text:?} is unknown")))
}

fn read_obligations(result: &Element) -> Result<Vec<Obligation>, Malformed> {
    let Some(all) = result.one(names::POLICY, "Obligations")? else {
        return Ok(Vec::new());
    };
    all.all(names::POLICY, "Obligation").map(read_obligation).collect()
}

fn read_obligation(element: &Element) -> Result<Obligation, Malformed> {
    let id = element
        .attribute("ObligationId")
        .ok_or_else(|| Malformed::new("an Obligation has no ObligationId"))?;
    let assignment = |a: &Element| {
        let id = a.attribute("AttributeId");
        let id = id.ok_or_else(|| Malformed::new("an AttributeAssignment has no AttributeId"))?;
        Ok((id.trim().to_owned(), a.text.trim().to_owned()))
    };
    Ok(Obligation {
        id: id.trim().to_owned(),
        fulfill_on: element.attribute("FulfillOn").unwrap_or("Permit").trim().to_owned(),
        assignments: element
            .all(names::POLICY, "AttributeAssignment")
            .map(assignment)
            .collect::<Result<_, _>>()?,
    })
}

impl Answer {
    /// The SOAP message of a service called `issuer`, complete enough for the strictest client: SAML status, XACML
    /// status, typed statement, and no element without content.
    pub fn encode(&self, id: &str, issue_instant: &str, issuer: &str) -> String {
        let (issuer, instant) = (esc(issuer), esc(issue_instant));
        let reply_to = self.in_response_to.as_deref().map(|r| format!(r#" InResponseTo="{}""#, esc(r)));
        let issued = format!(
            r#"<saml:Issuer Format="urn:oasis:names:tc:SAML:2.0:nameid-format:entity">{issuer}</saml:Issuer>"#
        );
        let mut xml = format!(
            concat!(
                r#"<samlp:Response xmlns:samlp="{}" xmlns:saml="{}" xmlns:xs="{}" xmlns:ctx="{}" xmlns:pol="{}" "#,
                r#"xmlns:xsi="{}" ID="{}"{} Version="2.0" IssueInstant="{}">{}"#,
                r#"<samlp:Status><samlp:StatusCode Value="{}"/></samlp:Status>"#,
                r#"<saml:Assertion ID="{}a" Version="2.0" IssueInstant="{}">{}"#,
                r#"<saml:Statement xsi:type="xs:XACMLAuthzDecisionStatementType"><ctx:Response><ctx:Result>"#,
                r#"<ctx:Decision>{}</ctx:Decision>{}"#
            ),
            names::SAMLP,
            names::SAML,
            names::XACML_SAML,
            names::CONTEXT,
            names::POLICY,
            names::XSI,
            esc(id),
            reply_to.unwrap_or_default(),
            instant,
            issued,
            names::SAML_SUCCESS,
            esc(id),
            instant,
            issued,
            self.decision.name(),
            self.xacml_status(),
        );
        write_obligations(&mut xml, &self.obligations);
        xml.push_str("</ctx:Result></ctx:Response></saml:Statement></saml:Assertion></samlp:Response>");
        super::envelope(&xml)
    }

    fn xacml_status(&self) -> String {
        let ok = self.decision != Decision::Indeterminate;
        let code = if ok { names::STATUS_OK } else { names::STATUS_ERROR };
        let message = self.message.as_deref().filter(|m| !m.is_empty());
        let message = message.map(|m| format!("<ctx:StatusMessage>{}</ctx:StatusMessage>", esc(m)));
        format!(r#"<ctx:Status><ctx:StatusCode Value="{code}"/>{}</ctx:Status>"#, message.unwrap_or_default())
    }
}

fn write_obligations(xml: &mut String, obligations: &[Obligation]) {
    if obligations.is_empty() {
        return;
    }
    xml.push_str("<pol:Obligations>");
    for o in obligations {
        let _ = write!(
            xml,
            r#"<pol:Obligation ObligationId="{}" FulfillOn="{}">"#,
            esc(&o.id),
            esc(&o.fulfill_on)
        );
        for (id, value) in &o.assignments {
            let numeric = [names::attribute::UID, names::attribute::GID].contains(&id.as_str());
            let data_type = if numeric { names::XS_INTEGER } else { names::XS_STRING };
            let _ = write!(
                xml,
                r#"<pol:AttributeAssignment AttributeId="{}" DataType="{data_type}">{}</pol:AttributeAssignment>"#,
                esc(id),
                esc(value)
            );
        }
        xml.push_str("</pol:Obligation>");
    }
    xml.push_str("</pol:Obligations>");
}

impl Fault {
    /// The SOAP message, shaped like those of GUMS: its clients look for the text in `faultstring` and in the detail.
    pub fn encode(&self) -> String {
        let reason = esc(&self.reason);
        super::envelope(&format!(
            concat!(
                r#"<soapenv:Fault xmlns:ctx="{}"><faultcode>ctx:{}</faultcode><faultstring>{}</faultstring>"#,
                r#"<faultactor>GUMS</faultactor><detail><ctx:StatusMessage>{}</ctx:StatusMessage></detail></soapenv:Fault>"#
            ),
            names::CONTEXT,
            esc(&self.code),
            reason,
            reason
        ))
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
