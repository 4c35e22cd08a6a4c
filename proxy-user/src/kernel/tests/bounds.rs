//! What happens where maps are full or would be filled.

use super::{
    lab::{self, Lab, counted, dial},
    shapes::reason,
    *,
};

/// Where the maps of this layout are pinned.
pub(super) fn maps_dir(lab: &Lab) -> std::path::PathBuf {
    let version = proxy_common::LAYOUT_VERSION;
    lab.options.pins.join(format!("v{version}"))
}

pub(super) fn a_pod_with_too_many_handshakes_degrades(lab: &mut Lab) {
    let pinned = aya::maps::MapData::from_pin(maps_dir(lab).join("CONNECTING"));
    let pinned = aya::maps::Map::HashMap(pinned.expect("it is pinned"));
    let mut connecting: aya::maps::HashMap<_, PodId, u64> =
        pinned.try_into().expect("the shape of CONNECTING");
    let id = lab.pod.id;
    // A handshake that ends is counted no more, whoever accepts it.
    let client = dial("10.96.0.1:80").expect("captured");
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
    drop(client);
    // A pod that drops its own handshakes.
    lab::run("nft add table inet drops");
    lab::run("nft add chain inet drops input { type filter hook input priority 0 ; }");
    lab::run("nft add rule inet drops input tcp dport 15001 drop");
    let start = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a flag");
        let _ = socket.connect(&lab::sock_addr("10.96.0.1:80"));
        socket
    };
    let most = proxy_common::map::CONNECTING_PER_POD_MAX;
    let mut sockets: Vec<Socket> = (0..most).map(|_| start()).collect();
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), most);
    assert_eq!(
        reason(lab, "10.96.0.7:80"),
        [Reason::DegradedDeny, Reason::ConnectingFull]
    );
    sockets.pop();
    sockets.push(start());
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), most);
    drop(sockets);
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    assert_eq!(
        original_dsts(lab).keys().count(),
        0,
        "their entries are gone"
    );
    lab::run("nft delete table inet drops");
    // What no program saw is put right by the sweep.
    connecting.insert(id, most, 0).expect("room");
    lab.kernel.sweep_original_dsts().expect("the sweep");
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    // Naming the pod again keeps what is counted.
    connecting.insert(id, 7, 0).expect("room");
    lab.register();
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 7);
    connecting.insert(id, 0, 0).expect("room");
}

/// Whatever is written, as text.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn a_full_map_is_told_in_the_log(lab: &mut Lab) {
    let mut log = lab.kernel.take_log().expect("the first reader");
    assert!(lab.kernel.take_log().is_none());
    let mut entries = original_dsts(lab);
    let key = |number: u32| OriginalDstKey {
        netns_cookie: u64::MAX,
        addr: Addr::from_v4_word(number),
        ..OriginalDstKey::default()
    };
    let mut number = 0;
    while entries
        .insert(key(number), OriginalDstValue::default(), 0)
        .is_ok()
    {
        number += 1;
    }
    assert!(number > proxy_common::map::ORIGINAL_DSTS_MAX / 2);
    let before = lab.reasons();
    let client = dial("10.96.0.1:80").expect("it queues");
    assert_eq!(
        counted(lab, &before),
        [Reason::ProxyPath, Reason::OriginalDstFull]
    );
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert_eq!(lab.take(peer), None, "nobody knows its destination");
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(written.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, || log.flush());
    let text = String::from_utf8(written.0.lock().expect("not poisoned").clone());
    let text = text.expect("UTF-8");
    let port = client.local_addr().expect("a name").port();
    let (pod, full) = (lab.pod.id.id, "ERROR ebpf: no room in ORIGINAL_DSTS");
    let whose = format!("of pod {pod} from port {port} will be refused");
    assert!(text.contains(full) && text.contains(&whose), "{text}");
    for number in 0..number {
        entries.remove(&key(number)).expect("it was there");
    }
}

/// The pinned `ORIGINAL_DSTS`.
pub(super) fn original_dsts(
    lab: &Lab,
) -> aya::maps::HashMap<aya::maps::MapData, OriginalDstKey, OriginalDstValue> {
    let pinned = aya::maps::MapData::from_pin(maps_dir(lab).join("ORIGINAL_DSTS"));
    let pinned = aya::maps::Map::HashMap(pinned.expect("it is pinned"));
    pinned.try_into().expect("the shape of ORIGINAL_DSTS")
}
