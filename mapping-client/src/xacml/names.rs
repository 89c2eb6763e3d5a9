//! URIs of the interoperability profile 1.2 and of the standards below it.

/// SOAP 1.1 envelope.
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// SAML 2.0 assertions.
pub const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
/// SAML 2.0 protocol.
pub const SAMLP: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
/// XACML decision queries in SAML, version 2 of the profile.
pub const XACML_SAMLP: &str = "urn:oasis:names:tc:xacml:2.0:profile:saml2.0:v2:schema:protocol";
/// XACML decision statements in SAML, version 2 of the profile.
pub const XACML_SAML: &str = "urn:oasis:names:tc:xacml:2.0:profile:saml2.0:v2:schema:assertion";
/// XACML 2.0 request and response contexts.
pub const CONTEXT: &str = "urn:oasis:names:tc:xacml:2.0:context:schema:os";
/// XACML 2.0 policies, whose obligations a response borrows.
pub const POLICY: &str = "urn:oasis:names:tc:xacml:2.0:policy:schema:os";
/// Types in instances.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Type of texts.
pub const XS_STRING: &str = "http://www.w3.org/2001/XMLSchema#string";
/// Type of numbers.
pub const XS_INTEGER: &str = "http://www.w3.org/2001/XMLSchema#integer";

/// Type of base64 texts.
pub const XS_BASE64: &str = "http://www.w3.org/2001/XMLSchema#base64Binary";

/// The subject category that the profile uses, and the default of the schema.
pub const ACCESS_SUBJECT: &str = "urn:oasis:names:tc:xacml:1.0:subject-category:access-subject";
/// SAML status of an answer that carries a decision.
pub const SAML_SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";
/// XACML status of a decision without trouble.
pub const STATUS_OK: &str = "urn:oasis:names:tc:xacml:1.0:status:ok";
/// XACML status of a decision that could not be made.
pub const STATUS_ERROR: &str = "urn:oasis:names:tc:xacml:1.0:status:processing-error";

/// Attributes of the subject.
pub mod subject {
    /// Subject of the end-entity certificate, one-line form.
    pub const DN: &str = "http://authz-interop.org/xacml/subject/subject-x509-id";
    /// Issuer of that certificate.
    pub const ISSUER: &str = "http://authz-interop.org/xacml/subject/subject-x509-issuer";
    /// Virtual organisation.
    pub const VO: &str = "http://authz-interop.org/xacml/subject/vo";
    /// Subject of the VOMS server's certificate.
    pub const VOMS_SIGNER: &str = "http://authz-interop.org/xacml/subject/voms-signing-subject";
    /// Issuer of the VOMS server's certificate.
    pub const VOMS_SIGNER_ISSUER: &str = "http://authz-interop.org/xacml/subject/voms-signing-issuer";
    /// One FQAN; as many of these as there are FQANs, in order.
    pub const FQAN: &str = "http://authz-interop.org/xacml/subject/voms-fqan";
    /// The first FQAN.
    pub const PRIMARY_FQAN: &str = "http://authz-interop.org/xacml/subject/voms-primary-fqan";
    /// Serial number of the end-entity certificate, decimal.
    pub const SERIAL: &str = "http://authz-interop.org/xacml/subject/certificate-serial-number";
    /// The certificate chain, PEM.
    pub const CHAIN: &str = "http://authz-interop.org/xacml/subject/cert-chain";
    /// Value of the XML attribute `Issuer` that says "nobody verified this".
    pub const ISSUER_NONE: &str = "http://authz-interop.org/xacml/issuer/none";
}

/// Attributes of the resource.
pub mod resource {
    /// What kind of resource.
    pub const ID: &str = "urn:oasis:names:tc:xacml:1.0:resource:resource-id";
    /// A worker node.
    pub const WORKER_NODE: &str = "http://authz-interop.org/xacml/resource/resource-type/wn";
    /// Host name.
    pub const HOST: &str = "http://authz-interop.org/xacml/resource/dns-host-name";
    /// Subject of the host's certificate.
    pub const DN: &str = "http://authz-interop.org/xacml/resource/resource-x509-id";
    /// Issuer of the host's certificate.
    pub const ISSUER: &str = "http://authz-interop.org/xacml/resource/resource-x509-issuer";
}

/// Attributes of the action.
pub mod action {
    /// What kind of action.
    pub const ID: &str = "urn:oasis:names:tc:xacml:1.0:action:action-id";
    /// Run now, on this node.
    pub const EXECUTE_NOW: &str = "http://authz-interop.org/xacml/action/action-type/execute-now";
}

/// Attributes of the environment.
pub mod environment {
    /// One obligation that the client can carry out.
    pub const SUPPORTED: &str = "http://authz-interop.org/xacml/environment/pep-oblig-supported";
    /// The same, as clients built before October 2008 misplaced it.
    pub const SUPPORTED_2008: &str =
        "http://authz-interop.org/xacml/environment/pilot-job/pep-oblig-supported";
}

/// Obligations: what the client has to do to let the user in.
pub mod obligation {
    /// Run with this uid and this primary gid; GUMS sends a gid alone.
    pub const UIDGID: &str = "http://authz-interop.org/xacml/obligation/uidgid";
    /// Run with these further gids.
    pub const SECONDARY_GIDS: &str = "http://authz-interop.org/xacml/obligation/secondary-gids";
    /// Run as this account.
    pub const USERNAME: &str = "http://authz-interop.org/xacml/obligation/username";
    /// Run as this account with this group (GUMS 1.5).
    pub const ACCOUNT: &str = "http://authz-interop.org/xacml/obligation/account";
}

/// Attributes of obligations.
pub mod attribute {
    /// Numeric user id.
    pub const UID: &str = "http://authz-interop.org/xacml/attribute/posix-uid";
    /// Numeric group id.
    pub const GID: &str = "http://authz-interop.org/xacml/attribute/posix-gid";
    /// Account name.
    pub const USERNAME: &str = "http://authz-interop.org/xacml/attribute/username";
    /// Name of the primary group.
    pub const PRIMARY_GROUP: &str = "http://authz-interop.org/xacml/attribute/primary-groupname";
    /// Name of a further group.
    pub const SECONDARY_GROUP: &str = "http://authz-interop.org/xacml/attribute/secondary-groupname";
}
