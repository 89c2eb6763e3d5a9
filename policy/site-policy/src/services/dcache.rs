//! dCache. Each need says which of its nodes it is for: doors, pools and the SRM may be different hosts.

use super::need::{Direction, Family, Need, Protection, Reach, Role, Source};
use Direction::{In, Out};
use Reach::{DcacheData, OurRange, PeerRange, Service};
use Role::{Client, Server};

const DOOR: &str = "the door";
const POOL: &str = "each pool";
const SRM: &str = "the SRM";
const CLIENT: &str = "the client";
const FULL: Protection = Protection::FULL;
const DATA: Protection = Protection::AUTHENTICATED;
const NONE: Protection = Protection::NONE;

const fn need(
    service: &'static str,
    (role, direction, reach): (Role, Direction, Reach),
    node: &'static str,
    protection: Protection,
    [initiator, purpose, closed]: [&'static str; 3],
) -> Need {
    let (family, protocol, source) = (Family::Dcache, "tcp", Source::Ephemeral);
    Need {
        service,
        family,
        role,
        direction,
        node,
        protocol,
        reach,
        source,
        initiator,
        protection,
        purpose,
        closed,
    }
}

/// The same out of dCache's data range.
const fn from_data_range(need: Need) -> Need {
    Need { source: Source::DcacheData, ..need }
}

pub const NEEDS: &[Need] = &[
    need(
        "dcap",
        (Client, Out, Service("dcap")),
        CLIENT,
        NONE,
        [
            "the client",
            "dCap: control, without authentication: in local networks only",
            "no file can be opened by dCap",
        ],
    ),
    need(
        "dcap",
        (Client, In, OurRange),
        CLIENT,
        NONE,
        [
            "the pool",
            "dCap: data; the pool connects to the client's own range (dccp -p)",
            "files open and no byte arrives, until the client gives up; active clients (dccp -A) still work",
        ],
    ),
    need(
        "dcap",
        (Server, In, Service("dcap")),
        DOOR,
        NONE,
        [
            "the client",
            "dCap: control, without authentication: in local networks only",
            "no file can be opened by dCap",
        ],
    ),
    need(
        "dcap",
        (Server, Out, PeerRange),
        POOL,
        NONE,
        [
            "the pool",
            "dCap: data; the pool connects to the client's own range",
            "files open and no byte arrives, until the client gives up",
        ],
    ),
    need(
        "gsidcap",
        (Client, Out, Service("gsidcap")),
        CLIENT,
        FULL,
        ["the client", "GSIdCap: control", "no file can be opened by GSIdCap"],
    ),
    need(
        "gsidcap",
        (Client, In, OurRange),
        CLIENT,
        NONE,
        [
            "the pool",
            "GSIdCap: data; the pool connects to the client's own range (dccp -p)",
            "files open and no byte arrives, until the client gives up; active clients (dccp -A) still work",
        ],
    ),
    need(
        "gsidcap",
        (Server, In, Service("gsidcap")),
        DOOR,
        FULL,
        ["the client", "GSIdCap: control", "no file can be opened by GSIdCap"],
    ),
    need(
        "gsidcap",
        (Server, Out, PeerRange),
        POOL,
        NONE,
        [
            "the pool",
            "GSIdCap: data; the pool connects to the client's own range",
            "files open and no byte arrives, until the client gives up",
        ],
    ),
    need(
        "dcache-gridftp",
        (Client, Out, Service("dcache-gridftp")),
        CLIENT,
        FULL,
        ["the client", "GridFTP of dCache: control", "no transfer at all"],
    ),
    need(
        "dcache-gridftp",
        (Client, Out, DcacheData),
        CLIENT,
        DATA,
        [
            "the client",
            "GridFTP of dCache: data into the door, passive mode",
            "writes in passive mode fail; closing passive mode breaks parallel PUT",
        ],
    ),
    from_data_range(need(
        "dcache-gridftp",
        (Client, In, OurRange),
        CLIENT,
        DATA,
        [
            "the pool",
            "GridFTP of dCache: data out of pools, active mode",
            "reads in active mode hang until they time out",
        ],
    )),
    need(
        "dcache-gridftp",
        (Server, In, Service("dcache-gridftp")),
        DOOR,
        FULL,
        ["the client", "GridFTP of dCache: control", "no transfer at all"],
    ),
    need(
        "dcache-gridftp",
        (Server, In, DcacheData),
        DOOR,
        DATA,
        [
            "the client",
            "GridFTP of dCache: data into the door, passive mode",
            "writes in passive mode fail; closing passive mode breaks parallel PUT",
        ],
    ),
    from_data_range(need(
        "dcache-gridftp",
        (Server, Out, PeerRange),
        POOL,
        DATA,
        [
            "the pool",
            "GridFTP of dCache: data out of pools, active mode",
            "reads in active mode hang until they time out",
        ],
    )),
    need(
        "srm",
        (Client, Out, Service("srm")),
        CLIENT,
        FULL,
        ["the client", "SRM: requests; the transfers themselves go by GridFTP", "no SRM request at all"],
    ),
    need(
        "srm",
        (Client, Out, Service("dcache-gridftp")),
        CLIENT,
        FULL,
        [
            "the client",
            "SRM: control of the GridFTP transfer that the SRM names",
            "requests succeed and no transfer follows",
        ],
    ),
    need(
        "srm",
        (Client, Out, DcacheData),
        CLIENT,
        DATA,
        ["the client", "SRM writes: data into the door, passive", "srmcp to the site fails"],
    ),
    from_data_range(need(
        "srm",
        (Client, In, OurRange),
        CLIENT,
        DATA,
        ["the pool", "SRM reads: data out of pools, active", "srmcp from the site hangs until it times out"],
    )),
    need(
        "srm",
        (Server, In, Service("srm")),
        SRM,
        FULL,
        ["the client, or another SRM", "SRM: requests", "no SRM request at all"],
    ),
    need(
        "srm",
        (Server, In, Service("dcache-gridftp")),
        DOOR,
        FULL,
        [
            "the client, or the pools of another site",
            "SRM: control of the GridFTP transfers that the SRM names",
            "requests succeed and no transfer follows",
        ],
    ),
    need(
        "srm",
        (Server, In, DcacheData),
        DOOR,
        DATA,
        [
            "the client, or the pools of another site",
            "SRM writes: data into the door, passive; copies that another site pushes to here",
            "srmcp to this site fails, and so do copies that are pushed to it",
        ],
    ),
    from_data_range(need(
        "srm",
        (Server, Out, PeerRange),
        POOL,
        DATA,
        ["the pool", "SRM reads: data out of pools, active", "srmcp from this site hangs until it times out"],
    )),
    need(
        "srm",
        (Server, Out, Service("srm")),
        SRM,
        FULL,
        ["the SRM", "SRM copies: requests to the other SRM", "copies between two SRMs fail"],
    ),
    need(
        "srm",
        (Server, Out, Service("dcache-gridftp")),
        POOL,
        FULL,
        [
            "the pool, which is a client here",
            "SRM copies that pull from, or push to, another site: control",
            "copies between two SRMs fail",
        ],
    ),
    need(
        "srm",
        (Server, Out, DcacheData),
        POOL,
        DATA,
        [
            "the pool, which is a client here",
            "SRM copies that push: data into the door of the other site",
            "copies that are pushed from here fail",
        ],
    ),
    from_data_range(need(
        "srm",
        (Server, In, OurRange),
        POOL,
        DATA,
        [
            "a pool of the other site",
            "SRM copies that pull: data out of pools of the other site, active",
            "copies that are pulled to here hang until they time out",
        ],
    )),
];
