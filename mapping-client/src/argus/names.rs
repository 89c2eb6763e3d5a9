//! URIs and class names of Argus: the gLite profiles, and the later common profile where answers may use it.

/// Before each class name on the wire.
pub const CLASS_PREFIX: &str = "org.glite.authz.common.model.";

/// The chain of the subject, PEM without any key.
pub const SUBJECT_KEY_INFO: &str = "urn:oasis:names:tc:xacml:1.0:subject:key-info";
/// Subject of the end-entity certificate, RFC 2253.
pub const SUBJECT_ID: &str = "urn:oasis:names:tc:xacml:1.0:subject:subject-id";
/// The first FQAN.
pub const FQAN_PRIMARY: &str = "http://glite.org/xacml/attribute/fqan/primary";
/// All FQANs, in order.
pub const FQAN: &str = "http://glite.org/xacml/attribute/fqan";
/// What kind of resource.
pub const RESOURCE_ID: &str = "urn:oasis:names:tc:xacml:1.0:resource:resource-id";
/// A worker node: what sites' policies for gLExec name.
pub const WORKER_NODE: &str = "http://authz-interop.org/xacml/resource/resource-type/wn";
/// Host name of the resource.
pub const DNS_HOST_NAME: &str = "http://authz-interop.org/xacml/resource/dns-host-name";
/// What kind of action.
pub const ACTION_ID: &str = "urn:oasis:names:tc:xacml:1.0:action:action-id";
/// Run a payload.
pub const EXECUTE: &str = "http://glite.org/xacml/action/execute";
/// Which profile the request follows.
pub const PROFILE_ID: &str = "http://glite.org/xacml/attribute/profile-id";
/// The profile for worker nodes.
pub const PROFILE_WORKER_NODE: &str = "http://glite.org/xacml/profile/grid-wn/1.0";

/// Type of texts.
pub const XS_STRING: &str = "http://www.w3.org/2001/XMLSchema#string";
/// Type of URIs.
pub const XS_ANY_URI: &str = "http://www.w3.org/2001/XMLSchema#anyURI";
/// Type of names in the order of RFC 2253.
pub const X500_NAME: &str = "urn:oasis:names:tc:xacml:1.0:data-type:x500Name";
/// Type of FQANs.
pub const FQAN_TYPE: &str = "http://glite.org/xacml/datatype/fqan";

/// Obligations that ask for a mapping and name no account.
pub const ABSTRACT_MAPS: [&str; 2] = [
    "http://glite.org/xacml/obligation/local-environment-map",
    "http://dci-sec.org/xacml/obligation/map-local-user",
];
/// Obligations that name an account and groups.
pub const POSIX_MAPS: [&str; 2] = [
    "http://glite.org/xacml/obligation/local-environment-map/posix",
    "http://dci-sec.org/xacml/obligation/map-local-user/posix",
];
/// The account's name.
pub const USER_ID: [&str; 2] =
    ["http://glite.org/xacml/attribute/user-id", "http://dci-sec.org/xacml/attribute/user-id"];
/// Name of the primary group.
pub const GROUP_ID_PRIMARY: [&str; 2] = [
    "http://glite.org/xacml/attribute/group-id/primary",
    "http://dci-sec.org/xacml/attribute/group-id/primary",
];
/// Name of a group; the primary one is repeated here.
pub const GROUP_ID: [&str; 2] =
    ["http://glite.org/xacml/attribute/group-id", "http://dci-sec.org/xacml/attribute/group-id"];
