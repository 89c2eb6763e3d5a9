//! Globus GT2 (and GRAM5), GT3, GT4.

use super::need::{Direction, Family, Need, Protection, Reach, Role, Source};
use Direction::{In, Out};
use Reach::{OurRange, PeerRange, Service};
use Role::{Client, Server};

/// A connection of TCP from controllable ephemeral ports.
const fn need(
    service: &'static str,
    family: Family,
    (role, direction, reach): (Role, Direction, Reach),
    protection: Protection,
    [initiator, purpose, closed]: [&'static str; 3],
) -> Need {
    let node = match role {
        Client => "the client",
        Server => "the server",
    };
    let source = Source::ControllableEphemeral;
    Need {
        service,
        family,
        role,
        direction,
        node,
        protocol: "tcp",
        reach,
        source,
        initiator,
        protection,
        purpose,
        closed,
    }
}

/// The same from ports that cannot be told a range.
const fn ephemeral(need: Need) -> Need {
    Need { source: Source::Ephemeral, ..need }
}

const FULL: Protection = Protection::FULL;

pub const NEEDS: &[Need] = &[
    ephemeral(need(
        "gram",
        Family::Gt2,
        (Client, Out, Service("gram")),
        FULL,
        ["the client", "GRAM gatekeeper: jobs are submitted", "no job can be submitted"],
    )),
    need(
        "gram",
        Family::Gt2,
        (Client, Out, PeerRange),
        FULL,
        [
            "the client",
            "job manager: status, cancel, two-phase commit; the port stands in the job contact",
            "jobs start, but can be neither asked for nor cancelled",
        ],
    ),
    need(
        "gram",
        Family::Gt2,
        (Client, In, OurRange),
        FULL,
        [
            "the job manager",
            "job manager: callbacks of state; GASS: executable, input and output",
            "no callbacks (clients must poll), no staging, no standard output of jobs",
        ],
    ),
    ephemeral(need(
        "gram",
        Family::Gt2,
        (Server, In, Service("gram")),
        FULL,
        ["the client", "GRAM gatekeeper: jobs are submitted", "nobody can submit a job here"],
    )),
    need(
        "gram",
        Family::Gt2,
        (Server, In, OurRange),
        FULL,
        [
            "the client",
            "job manager: status, cancel, two-phase commit",
            "jobs start, but can be neither asked for nor cancelled",
        ],
    ),
    need(
        "gram",
        Family::Gt2,
        (Server, Out, PeerRange),
        FULL,
        [
            "the job manager",
            "job manager: callbacks of state; GASS: executable, input and output",
            "no callbacks (clients must poll), no staging, no standard output of jobs",
        ],
    ),
    ephemeral(need(
        "gram3",
        Family::Gt3,
        (Client, Out, Service("gram3")),
        FULL,
        ["the client", "GRAM of GT3: jobs are submitted to the container", "no job can be submitted"],
    )),
    need(
        "gram3",
        Family::Gt3,
        (Client, In, OurRange),
        FULL,
        [
            "the container",
            "notifications of the container; GASS: input and output",
            "no notifications (clients must poll), no staging",
        ],
    ),
    ephemeral(need(
        "gram3",
        Family::Gt3,
        (Server, In, Service("gram3")),
        FULL,
        ["the client", "GRAM of GT3: jobs are submitted to the container", "nobody can submit a job here"],
    )),
    need(
        "gram3",
        Family::Gt3,
        (Server, Out, PeerRange),
        FULL,
        [
            "the container",
            "notifications of the container; GASS: input and output",
            "no notifications (clients must poll), no staging",
        ],
    ),
    ephemeral(need(
        "gram4",
        Family::Gt4,
        (Client, Out, Service("gram4")),
        FULL,
        [
            "the client",
            "GRAM of GT4: jobs are submitted to the container over TLS",
            "no job can be submitted",
        ],
    )),
    need(
        "gram4",
        Family::Gt4,
        (Client, In, OurRange),
        FULL,
        ["the container", "notifications of the container", "no notifications: clients must poll"],
    ),
    ephemeral(need(
        "gram4",
        Family::Gt4,
        (Server, In, Service("gram4")),
        FULL,
        [
            "the client",
            "GRAM of GT4: jobs are submitted to the container over TLS",
            "nobody can submit a job here",
        ],
    )),
    need(
        "gram4",
        Family::Gt4,
        (Server, Out, PeerRange),
        FULL,
        ["the container", "notifications of the container", "no notifications: clients must poll"],
    ),
    ephemeral(need(
        "mds",
        Family::Gt2,
        (Client, Out, Service("mds")),
        FULL,
        ["the client", "MDS: queries to GRIS and GIIS", "the site's users see no information of other sites"],
    )),
    ephemeral(need(
        "mds",
        Family::Gt2,
        (Server, In, Service("mds")),
        FULL,
        [
            "clients, and the GRIS and GIIS below",
            "MDS: queries, and registrations of those below",
            "nobody sees this site's information, and nobody below can register",
        ],
    )),
    ephemeral(need(
        "mds",
        Family::Gt2,
        (Server, Out, Service("mds")),
        FULL,
        [
            "the GRIS or GIIS",
            "MDS: registrations to the GIIS above, and its queries to those below",
            "this site is missing in the GIIS above",
        ],
    )),
    ephemeral(need(
        "mds3",
        Family::Gt3,
        (Client, Out, Service("mds3")),
        FULL,
        [
            "the client",
            "MDS of GT3: queries to the index service",
            "the site's users see no information of other sites",
        ],
    )),
    ephemeral(need(
        "mds3",
        Family::Gt3,
        (Server, In, Service("mds3")),
        FULL,
        [
            "clients and index services",
            "MDS of GT3: queries and registrations",
            "nobody sees this site's information",
        ],
    )),
    ephemeral(need(
        "mds4",
        Family::Gt4,
        (Client, Out, Service("mds4")),
        FULL,
        [
            "the client",
            "MDS of GT4: queries to the index service",
            "the site's users see no information of other sites",
        ],
    )),
    ephemeral(need(
        "mds4",
        Family::Gt4,
        (Server, In, Service("mds4")),
        FULL,
        [
            "clients and index services",
            "MDS of GT4: queries and registrations",
            "nobody sees this site's information",
        ],
    )),
    need(
        "gridftp",
        Family::Globus,
        (Client, Out, Service("gridftp")),
        FULL,
        ["the client", "GridFTP: control channel", "no transfer at all"],
    ),
    need(
        "gridftp",
        Family::Globus,
        (Client, Out, PeerRange),
        Protection::AUTHENTICATED,
        [
            "the client",
            "GridFTP: data to a server in passive mode; single transfers both ways, parallel ones to the server",
            "closing passive mode breaks parallel PUT, and single transfers of clients that cannot listen",
        ],
    ),
    need(
        "gridftp",
        Family::Globus,
        (Client, In, OurRange),
        Protection::AUTHENTICATED,
        [
            "the server",
            "GridFTP: data from a server in active mode; parallel transfers to the client",
            "parallel GET hangs until it times out, and so does active mode",
        ],
    ),
    need(
        "gridftp",
        Family::Globus,
        (Server, In, Service("gridftp")),
        FULL,
        ["the client, or the client of a third-party copy", "GridFTP: control channel", "no transfer at all"],
    ),
    need(
        "gridftp",
        Family::Globus,
        (Server, In, OurRange),
        Protection::AUTHENTICATED,
        [
            "the client, or the other server of a third-party copy",
            "GridFTP: data in passive mode; single transfers both ways, parallel ones to this server",
            "closing passive mode breaks parallel PUT, third-party copies to here and clients behind firewalls",
        ],
    ),
    need(
        "gridftp",
        Family::Globus,
        (Server, Out, PeerRange),
        Protection::AUTHENTICATED,
        [
            "the server",
            "GridFTP: data in active mode; parallel transfers to the client, third-party copies from here",
            "parallel GET hangs until it times out, and so do third-party copies from here",
        ],
    ),
    ephemeral(need(
        "gsissh",
        Family::Globus,
        (Client, Out, Service("gsissh")),
        FULL,
        ["the client", "GSI-OpenSSH: logins and copies", "no login, no scp"],
    )),
    ephemeral(need(
        "gsissh",
        Family::Globus,
        (Server, In, Service("gsissh")),
        FULL,
        ["the client", "GSI-OpenSSH: logins and copies", "no login, no scp"],
    )),
    need(
        "myproxy",
        Family::Globus,
        (Client, Out, Service("myproxy")),
        FULL,
        [
            "the client",
            "MyProxy: credentials are stored, fetched and renewed",
            "no credential from the repository, and no renewal of those of long jobs",
        ],
    ),
    need(
        "myproxy",
        Family::Globus,
        (Server, In, Service("myproxy")),
        FULL,
        [
            "the client",
            "MyProxy: credentials are stored, fetched and renewed",
            "nobody gets a credential from this repository",
        ],
    ),
];
