use super::*;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

/// A thread of its own, because there is no way back.
fn within<T: Send + 'static>(view: (Vec<PathBuf>, Vec<u16>), ask: impl FnOnce() -> T + Send + 'static) -> T {
    let ask = move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        narrow(View { readable: &view.0, ports: &view.1 }).unwrap();
        ask()
    };
    std::thread::spawn(ask).join().unwrap()
}

fn has_landlock() -> bool {
    let narrowed = || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        narrow(View::default()).unwrap()
    };
    let all = std::thread::spawn(narrowed).join().unwrap() == Landlock::All;
    assert!(all || std::env::var_os("PILOTAGE_MUST_WORK").is_none(), "this kernel has no whole Landlock");
    all
}

#[test]
fn what_is_not_in_the_view_is_out_of_reach() {
    if !has_landlock() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    for part in [&inside, &outside] {
        std::fs::create_dir(part).unwrap();
        std::fs::write(part.join("f"), "x").unwrap();
    }
    let (open, closed) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |l: &TcpListener| l.local_addr().unwrap().port();
    let (open_port, closed_port) = (port(&open), port(&closed));
    let view = (vec![inside.clone(), dir.path().join("missing")], vec![open_port]);
    within(view, move || {
        let denied = |e: std::io::Error| assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert_eq!(std::fs::read_to_string(inside.join("f")).unwrap(), "x");
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 1);
        denied(std::fs::write(inside.join("f"), "y").unwrap_err());
        denied(std::fs::read(outside.join("f")).unwrap_err());
        denied(std::fs::read_dir(&outside).unwrap_err());
        TcpStream::connect(("127.0.0.1", open_port)).unwrap();
        denied(TcpStream::connect(("127.0.0.1", closed_port)).unwrap_err());
        denied(TcpListener::bind(("127.0.0.1", 0)).unwrap_err());
    });
}

#[test]
fn links_that_leave_a_directory_add_where_they_lead() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let (cas, share) = (base.join("certificates"), base.join("share"));
    for part in [&cas, &share] {
        std::fs::create_dir(part).unwrap();
    }
    std::fs::write(share.join("ca.pem"), "").unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, cas.join(name)).unwrap();
    link("ca.pem", "0a1b2c3d.1");
    assert_eq!(roots(&cas), std::slice::from_ref(&cas), "links inside need nothing");
    link("../share/ca.pem", "0a1b2c3d.0");
    link("/nowhere/ca.pem", "4e5f6a7b.0");
    assert_eq!(roots(&cas), [cas.clone(), share]);
    assert_eq!(roots(&base.join("missing")), [base.join("missing")]);
}
