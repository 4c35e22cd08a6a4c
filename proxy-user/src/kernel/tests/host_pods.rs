//! Pods of the host's namespace: by their cgroup, with their own listener, and led nowhere that is
//! the host's alone.

use super::{
    lab::{self, Lab, cluster, counted, dial, dial_from, reply},
    shapes::{exact, reason, service, to_cluster, with},
    *,
};
use crate::snapshot::kernel_view::KernelBalancer;

pub(super) fn host_pods_are_found_by_their_cgroup(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    let dialled: SocketAddr = "10.96.0.1:80".parse().expect("an address");
    let _client = TcpStream::connect(dialled).expect("captured");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    let taken = lab.take_as(by_cgroup.id, peer);
    assert_eq!(
        taken.map(|captured| captured.dst),
        Some(OriginalDst(dialled))
    );
    // For another pod's listener it would be nobody's.
    let _client = TcpStream::connect(dialled).expect("captured");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert_eq!(lab.take_as(PodId::cgroup(1), peer), None);
    // Where its entry names another port than its listener has, it has none.
    lab.upsert(&PodEntry {
        listener_v4: Some(15002),
        ..by_cgroup.clone()
    });
    let reasons = reason(lab, "10.96.0.1:80");
    assert!(reasons.contains(&Reason::ListenerGone), "{reasons:?}");
    lab.upsert(&by_cgroup);
    // In a namespace of its own making it has no listener.
    let before = lab.reasons();
    lab::in_another_namespace(|| {
        let _ = TcpStream::connect("10.96.0.1:80");
    });
    assert_eq!(counted(lab, &before), [Reason::PodUnknown]);
    // A daemon that comes after a crash knows the pod before it has found it.
    lab.crash();
    lab.open();
    lab.kernel.attach().expect("the swap");
    lab.sync(&lab.view());
    assert_eq!(reason(lab, "10.96.0.2:80"), [Reason::KernelPath]);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.kernel.renew().expect("renewed");
    assert_eq!(reason(lab, "10.0.0.20:80"), [Reason::PodUnknown]);
    lab.register();
}

/// The lab's pod, as if its namespace were the host's.
fn as_host_pod(lab: &mut Lab) -> PodEntry {
    lab.kernel.remove_pod(lab.pod.id).expect("the pod goes");
    let by_cgroup = PodEntry {
        id: PodId::cgroup(lab.cgroup_id),
        ..lab.pod.clone()
    };
    lab.upsert(&by_cgroup);
    lab.kernel
        .set_listener(by_cgroup.id, Family::V4, lab.listener_v4.as_fd())
        .expect("room");
    by_cgroup
}

pub(super) fn rules_lead_host_pods_to_nothing_of_the_host(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    let mut view = with(
        lab,
        vec![
            service(exact("10.96.0.5", 80), Some(to_cluster(0))),
            service(exact("10.96.0.6", 80), Some(to_cluster(1))),
            service(exact("10.96.0.7", 80), Some(to_cluster(2))),
        ],
    );
    view.clusters = vec![
        cluster("loopback", "127.0.0.1:22", KernelBalancer::RoundRobin),
        cluster("guarded", "10.0.0.13:7", KernelBalancer::RoundRobin),
        cluster("open", "10.0.0.11:9000", KernelBalancer::RoundRobin),
    ];
    lab.sync(&view);
    let refused = dial("10.96.0.5:80").expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(reason(lab, "10.96.0.5:80"), [Reason::HostGuard]);
    // Only the proxy knows whether the address is the host's.
    let before = lab.reasons();
    let _client = dial("10.96.0.6:80").expect("captured");
    assert_eq!(
        counted(lab, &before),
        [Reason::ProxyPath, Reason::GuardedPort]
    );
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take_as(by_cgroup.id, peer).is_some());
    assert_eq!(reply(dial("10.96.0.7:80")), "v1");
    // A pod with a namespace of its own has a loopback of its own.
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.register();
    assert_eq!(reason(lab, "10.96.0.5:80"), [Reason::KernelPath]);
    assert_eq!(reason(lab, "10.96.0.6:80"), [Reason::KernelPath]);
    lab.sync(&lab.view());
}

/// One that dials another host pod's listener: its hooks know it, but it was not captured.
pub(super) fn strangers_on_the_host_find_nobodys_destination(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    // What a client left behind that was reset before its connection was accepted: its port is
    // free again while its entry waits in the queue.
    let client = dial_from("127.0.0.1:46001", "10.96.0.1:80").expect("captured");
    let abort = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    abort.expect("an option");
    drop(client);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    let stranger = dial_from("127.0.0.1:46001", "127.0.0.1:15001").expect("it queues");
    lab.upsert(&by_cgroup);
    for _ in 0..2 {
        let (_, peer) = lab.listener_v4.accept().expect("both queued");
        assert_eq!(peer.port(), 46001);
        assert_eq!(lab.take_as(by_cgroup.id, peer), None);
    }
    drop(stranger);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.register();
}
