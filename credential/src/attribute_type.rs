//! Short names of attribute types, as OpenSSL 3 writes them: map files, bans and logs name users by them.

/// The name of a type by the contents octets of its OID; `None` for types that OpenSSL shows as numbers.
pub(crate) fn short_name(oid: &[u8]) -> Option<&'static str> {
    FAMILIES.iter().find_map(|(arc, members)| {
        let [last] = oid.strip_prefix(*arc)? else { return None };
        members.iter().find(|(number, _)| number == last).map(|(_, name)| *name)
    })
}

type Family = (&'static [u8], &'static [(u8, &'static str)]);

const FAMILIES: [Family; 5] = [
    (&asn1_rs::oid!(raw 2.5.4), &X520),
    (&asn1_rs::oid!(raw 0.9.2342.19200300.100.1), &PILOT),
    (&asn1_rs::oid!(raw 1.2.840.113549.1.9), &PKCS9),
    (&asn1_rs::oid!(raw 1.3.6.1.4.1.311.60.2.1), &JURISDICTION),
    (&asn1_rs::oid!(raw 1.2.643.100), &RUSSIA),
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

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Object;

    #[test]
    fn names_are_those_of_openssl() {
        for (arc, dotted) in [
            (FAMILIES[0].0, "2.5.4"),
            (FAMILIES[1].0, "0.9.2342.19200300.100.1"),
            (FAMILIES[2].0, "1.2.840.113549.1.9"),
            (FAMILIES[3].0, "1.3.6.1.4.1.311.60.2.1"),
            (FAMILIES[4].0, "1.2.643.100"),
        ] {
            for last in 0..128u8 {
                let nid = Asn1Object::from_str(&format!("{dotted}.{last}")).unwrap().nid();
                let theirs =
                    Some(nid).filter(|n| *n != openssl::nid::Nid::UNDEF).map(|n| n.short_name().unwrap());
                assert_eq!(short_name(&[arc, &[last]].concat()), theirs, "{dotted}.{last}");
            }
        }
        assert_eq!(short_name(&asn1_rs::oid!(raw 1.3.6.1.4.1.8005.100)), None);
    }
}
