//! Types of the attributes that names are made of: their short names as OpenSSL 3 writes them, since map files, bans and
//! logs name users by them, and the other words that people and programs write for the same type.

/// One arc of OIDs: dotted, the contents octets of its encoding, and what lies directly below.
struct Family {
    dotted: &'static str,
    arc: &'static [u8],
    members: &'static [(u8, &'static str)],
}

/// The short name of a type by the contents octets of its OID; `None` for types that OpenSSL shows as numbers.
pub fn short_name(oid: &[u8]) -> Option<&'static str> {
    FAMILIES.iter().find_map(|family| {
        let [last] = oid.strip_prefix(family.arc)? else { return None };
        member(family, *last)
    })
}

fn member(family: &Family, last: u8) -> Option<&'static str> {
    family.members.iter().find(|(number, _)| *number == last).map(|(_, name)| *name)
}

/// What a type is called here, from any word for it: short or long name in any case, or the dotted OID with or without
/// `OID.` before it. `None` for a word that is no known type.
///
/// `uid` is taken for the user id, as people mean it; OpenSSL writes the same four letters for `uniqueIdentifier`, which
/// no grid CA has in a name.
pub(crate) fn known(word: &str) -> Option<std::borrow::Cow<'static, str>> {
    let dotted = word.get(..4).filter(|p| p.eq_ignore_ascii_case("oid.")).map_or(word, |p| &word[p.len()..]);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    if dotted.contains('.') && dotted.split('.').all(is_number) {
        let short = dotted.rsplit_once('.').and_then(|(arc, last)| {
            member(FAMILIES.iter().find(|family| family.dotted == arc)?, last.parse().ok()?)
        });
        return Some(short.map_or_else(|| dotted.to_owned().into(), |name| canonical_case(name).into()));
    }
    if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(word)) {
        return Some((*name).into());
    }
    let names = FAMILIES.iter().flat_map(|family| family.members);
    names
        .map(|(_, name)| *name)
        .find(|name| name.eq_ignore_ascii_case(word))
        .map(|n| canonical_case(n).into())
}

/// `uid` and `UID` are one word; every other pair of names differs in more than case.
fn canonical_case(name: &'static str) -> &'static str {
    if name == "uid" { "UID" } else { name }
}

/// Whether the text begins with a type and an equals sign, as a component of a written name does.
pub fn begins(text: &str) -> bool {
    text.split_once('=').is_some_and(|(word, _)| known(word).is_some())
}

const ALIASES: [(&str, &str); 16] = [
    ("E", "emailAddress"),
    ("Email", "emailAddress"),
    ("USERID", "UID"),
    ("commonName", "CN"),
    ("countryName", "C"),
    ("localityName", "L"),
    ("stateOrProvinceName", "ST"),
    ("S", "ST"),
    ("SP", "ST"),
    ("organizationName", "O"),
    ("organizationalUnitName", "OU"),
    ("domainComponent", "DC"),
    ("surname", "SN"),
    ("givenName", "GN"),
    ("G", "GN"),
    ("streetAddress", "street"),
];

const FAMILIES: [Family; 5] = [
    Family { dotted: "2.5.4", arc: &[0x55, 0x04], members: &X520 },
    Family {
        dotted: "0.9.2342.19200300.100.1",
        arc: &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01],
        members: &PILOT,
    },
    Family {
        dotted: "1.2.840.113549.1.9",
        arc: &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09],
        members: &PKCS9,
    },
    Family {
        dotted: "1.3.6.1.4.1.311.60.2.1",
        arc: &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x3c, 0x02, 0x01],
        members: &JURISDICTION,
    },
    Family { dotted: "1.2.643.100", arc: &[0x2a, 0x85, 0x03, 0x64], members: &RUSSIA },
];

/// ITU-T X.520.
const X520: [(u8, &str); 58] = [
    (3, "CN"),
    (4, "SN"),
    (5, "serialNumber"),
    (6, "C"),
    (7, "L"),
    (8, "ST"),
    (9, "street"),
    (10, "O"),
    (11, "OU"),
    (12, "title"),
    (13, "description"),
    (14, "searchGuide"),
    (15, "businessCategory"),
    (16, "postalAddress"),
    (17, "postalCode"),
    (18, "postOfficeBox"),
    (19, "physicalDeliveryOfficeName"),
    (20, "telephoneNumber"),
    (21, "telexNumber"),
    (22, "teletexTerminalIdentifier"),
    (23, "facsimileTelephoneNumber"),
    (24, "x121Address"),
    (25, "internationaliSDNNumber"),
    (26, "registeredAddress"),
    (27, "destinationIndicator"),
    (28, "preferredDeliveryMethod"),
    (29, "presentationAddress"),
    (30, "supportedApplicationContext"),
    (31, "member"),
    (32, "owner"),
    (33, "roleOccupant"),
    (34, "seeAlso"),
    (35, "userPassword"),
    (36, "userCertificate"),
    (37, "cACertificate"),
    (38, "authorityRevocationList"),
    (39, "certificateRevocationList"),
    (40, "crossCertificatePair"),
    (41, "name"),
    (42, "GN"),
    (43, "initials"),
    (44, "generationQualifier"),
    (45, "x500UniqueIdentifier"),
    (46, "dnQualifier"),
    (47, "enhancedSearchGuide"),
    (48, "protocolInformation"),
    (49, "distinguishedName"),
    (50, "uniqueMember"),
    (51, "houseIdentifier"),
    (52, "supportedAlgorithms"),
    (53, "deltaRevocationList"),
    (54, "dmdName"),
    (65, "pseudonym"),
    (72, "role"),
    (97, "organizationIdentifier"),
    (98, "c3"),
    (99, "n3"),
    (100, "dnsName"),
];

/// RFC 1274 and RFC 4519.
const PILOT: [(u8, &str); 47] = [
    (1, "UID"),
    (2, "textEncodedORAddress"),
    (3, "mail"),
    (4, "info"),
    (5, "favouriteDrink"),
    (6, "roomNumber"),
    (7, "photo"),
    (8, "userClass"),
    (9, "host"),
    (10, "manager"),
    (11, "documentIdentifier"),
    (12, "documentTitle"),
    (13, "documentVersion"),
    (14, "documentAuthor"),
    (15, "documentLocation"),
    (20, "homeTelephoneNumber"),
    (21, "secretary"),
    (22, "otherMailbox"),
    (23, "lastModifiedTime"),
    (24, "lastModifiedBy"),
    (25, "DC"),
    (26, "aRecord"),
    (27, "pilotAttributeType27"),
    (28, "mXRecord"),
    (29, "nSRecord"),
    (30, "sOARecord"),
    (31, "cNAMERecord"),
    (37, "associatedDomain"),
    (38, "associatedName"),
    (39, "homePostalAddress"),
    (40, "personalTitle"),
    (41, "mobileTelephoneNumber"),
    (42, "pagerTelephoneNumber"),
    (43, "friendlyCountryName"),
    (44, "uid"),
    (45, "organizationalStatus"),
    (46, "janetMailbox"),
    (47, "mailPreferenceOption"),
    (48, "buildingName"),
    (49, "dSAQuality"),
    (50, "singleLevelQuality"),
    (51, "subtreeMinimumQuality"),
    (52, "subtreeMaximumQuality"),
    (53, "personalSignature"),
    (54, "dITRedirect"),
    (55, "audio"),
    (56, "documentPublisher"),
];

/// PKCS #9, RFC 2985.
const PKCS9: [(u8, &str); 14] = [
    (1, "emailAddress"),
    (2, "unstructuredName"),
    (3, "contentType"),
    (4, "messageDigest"),
    (5, "signingTime"),
    (6, "countersignature"),
    (7, "challengePassword"),
    (8, "unstructuredAddress"),
    (9, "extendedCertificateAttributes"),
    (14, "extReq"),
    (15, "SMIME-CAPS"),
    (16, "SMIME"),
    (20, "friendlyName"),
    (21, "localKeyID"),
];

/// Extended validation certificates.
const JURISDICTION: [(u8, &str); 3] = [(1, "jurisdictionL"), (2, "jurisdictionST"), (3, "jurisdictionC")];

/// Numbers of Russian companies and persons.
const RUSSIA: [(u8, &str); 6] = [
    (1, "OGRN"),
    (3, "SNILS"),
    (5, "OGRNIP"),
    (111, "subjectSignTool"),
    (112, "issuerSignTool"),
    (113, "classSignTool"),
];
