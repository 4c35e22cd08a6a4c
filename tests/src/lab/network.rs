//! The node's network: a bridge for pods, one for the outside, the service proxy.
//!
//! Addresses are the same in every lab, since each node is a namespace of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;

use super::netns::NetNs;
use super::process::{Place, run};
use super::spec::{Attachment, Families};

/// The node's own addresses, those of host-network pods.
pub(super) const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
/// The node's own IPv6 address.
pub(super) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 1);

/// Pod `index`'s addresses on the bridge; index 1 is the gateway's.
pub(super) fn pod_addresses(attachment: Attachment, families: Families, index: u16) -> Vec<IpAddr> {
    let [high, low] = index.to_be_bytes();
    let (v4, v6) = match attachment {
        Attachment::Bridge => (
            Ipv4Addr::new(10, 244, high, low),
            Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, index),
        ),
        Attachment::HostNetwork => (NODE_V4, NODE_V6),
        // RFC 2544's range for tests between networks: no pod range, and not special to a proxy.
        Attachment::External => (
            Ipv4Addr::new(198, 18, high, low),
            Ipv6Addr::new(0xfd00, 0x198, 0, 0, 0, 0, 0, index),
        ),
    };
    let mut addresses = Vec::new();
    if families.has_v4() {
        addresses.push(IpAddr::V4(v4));
    }
    if families.has_v6() {
        addresses.push(IpAddr::V6(v6));
    }
    addresses
}

/// Service `index`'s virtual addresses.
pub(super) fn service_addresses(families: Families, index: u16) -> Vec<IpAddr> {
    let [high, low] = index.to_be_bytes();
    let mut addresses = Vec::new();
    if families.has_v4() {
        addresses.push(IpAddr::V4(Ipv4Addr::new(10, 96, high, low)));
    }
    if families.has_v6() {
        addresses.push(IpAddr::V6(Ipv6Addr::new(
            0xfd00, 0x96, 0, 0, 0, 0, 0, index,
        )));
    }
    addresses
}

/// Builds the node's devices and routes inside its fresh namespace.
///
/// The bridges get hardware addresses of their own. Without, a bridge takes the lowest of its
/// ports' (Linux, `br_stp_recalculate_bridge_id`), so that a new pod may change the gateway's
/// address, and older pods go on sending to one that nobody has.
pub(super) fn set_up_node(place: &Place, node: &NetNs) -> anyhow::Result<()> {
    node.within(skip_address_detection)??;
    ip_batch(
        place,
        "link set lo up\n\
         link add br0 address 02:00:00:00:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link add ext0 address 02:00:00:00:00:02 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n",
    )?;
    node.within(set_node_sysctls)??;
    ip_batch(
        place,
        &format!(
            "link set br0 up\nlink set ext0 up\n\
             addr add 10.244.0.1/16 dev br0\naddr add fd00:244::1/64 dev br0 nodad\n\
             addr add 198.18.0.1/16 dev ext0\naddr add fd00:198::1/64 dev ext0 nodad\n\
             addr add {NODE_V4}/32 dev lo\naddr add {NODE_V6}/128 dev lo\n\
             route add 10.96.0.0/16 dev br0\nroute add fd00:96::/64 dev br0\n"
        ),
    )
}

/// Addresses work at once, also the link-local ones that neighbours are asked from.
///
/// Duplicate address detection would hold IPv6 back for up to two seconds a device.
fn skip_address_detection() -> anyhow::Result<()> {
    set_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    set_sysctl("net/ipv6/conf/default/router_solicitations", "0")
}

fn set_sysctl(key: &str, value: &str) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/sys/{key}"), value)
        .map_err(|error| anyhow::anyhow!("cannot set {key}: {error}"))
}

/// Forwarding on, and bridged packets through the service proxy's hooks.
fn set_node_sysctls() -> anyhow::Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        // Without these, answers between two pods of one bridge bypass the service proxy.
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ] {
        set_sysctl(key, value).context("is br_netfilter there? (modprobe br_netfilter)")?;
    }
    Ok(())
}

/// Joins a pod's fresh namespace to the node's bridge.
pub(super) fn connect_pod(
    node: &Place,
    pod: &Place,
    pause_pid: u32,
    index: u16,
    attachment: Attachment,
    addresses: &[IpAddr],
) -> anyhow::Result<()> {
    let (bridge, device, gateway_v4, gateway_v6) = match attachment {
        Attachment::Bridge => ("br0", format!("veth{index}"), "10.244.0.1", "fd00:244::1"),
        Attachment::External => ("ext0", format!("ext{index}"), "198.18.0.1", "fd00:198::1"),
        Attachment::HostNetwork => return Ok(()),
    };
    let net = pod
        .net
        .as_deref()
        .context("a pod on a bridge has a namespace")?;
    NetNs::open(net)?.within(skip_address_detection)??;
    ip_batch(
        node,
        &format!(
            "link add name {device} type veth peer name eth0 netns {pause_pid}\n\
             link set {device} master {bridge}\nlink set {device} type bridge_slave hairpin on\n\
             link set {device} up\n"
        ),
    )?;
    let mut inside = String::from("link set lo up\nlink set eth0 up\n");
    for address in addresses {
        let _ = match address {
            IpAddr::V4(address) => writeln!(
                inside,
                "addr add {address}/16 dev eth0\nroute add default via {gateway_v4}"
            ),
            IpAddr::V6(address) => writeln!(
                inside,
                "addr add {address}/64 dev eth0 nodad\nroute add ::/0 via {gateway_v6}"
            ),
        };
    }
    ip_batch(pod, &inside)
}

/// Runs `ip -batch` in a place.
fn ip_batch(place: &Place, commands: &str) -> anyhow::Result<()> {
    let mut command = place.command("ip")?;
    command.args(["-batch", "-"]);
    let finished = run(command, commands)?;
    finished
        .ok()
        .map(drop)
        .map_err(|error| error.context(format!("ip -batch:\n{commands}")))
}

/// One virtual port and where it leads, as kube-proxy would program it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VirtualPort {
    /// The virtual address.
    pub(super) address: IpAddr,
    /// `tcp` or `udp`.
    pub(super) protocol: &'static str,
    /// The service's port.
    pub(super) port: u16,
    /// Ready endpoints of the same family.
    pub(super) endpoints: Vec<(IpAddr, u16)>,
}

/// Replaces the service proxy's rules by those for `ports`, in one transaction.
pub(super) fn apply_service_proxy(place: &Place, ports: &[VirtualPort]) -> anyhow::Result<()> {
    let mut command = place.command("nft")?;
    command.args(["-f", "-"]);
    let rules = service_proxy_rules(ports);
    let finished = run(command, &rules)?;
    finished
        .ok()
        .map(drop)
        .map_err(|error| error.context(format!("nft -f:\n{rules}")))
}

/// The ruleset that stands in for kube-proxy: random endpoint, hairpin masqueraded,
/// a virtual address without endpoints refused.
fn service_proxy_rules(ports: &[VirtualPort]) -> String {
    let mut translate = String::new();
    let mut hairpin = String::new();
    for port in ports {
        let family = if port.address.is_ipv4() { "ip" } else { "ip6" };
        let VirtualPort {
            address,
            protocol,
            port: number,
            endpoints,
        } = port;
        if endpoints.is_empty() {
            continue;
        }
        let choices: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(index, (endpoint, port))| format!("{index} : {endpoint} . {port}"))
            .collect();
        let _ = writeln!(
            translate,
            "    {family} daddr {address} {protocol} dport {number} dnat {family} addr . port \
             to numgen random mod {} map {{ {} }}",
            choices.len(),
            choices.join(", ")
        );
        for (endpoint, _) in endpoints {
            let rule = format!(
                "    {family} saddr {endpoint} {family} daddr {endpoint} ct status dnat masquerade\n"
            );
            if !hairpin.contains(&rule) {
                hairpin.push_str(&rule);
            }
        }
    }
    format!(
        "table inet services {{}}\ndelete table inet services\ntable inet services {{\n\
         \x20 chain translate {{\n{translate}  }}\n\
         \x20 chain prerouting {{ type nat hook prerouting priority dstnat; jump translate; }}\n\
         \x20 chain output {{ type nat hook output priority -100; jump translate; }}\n\
         \x20 chain postrouting {{ type nat hook postrouting priority srcnat;\n{hairpin}  }}\n\
         \x20 chain refuse {{\n\
         \x20   ip daddr 10.96.0.0/16 meta l4proto tcp reject with tcp reset\n\
         \x20   ip6 daddr fd00:96::/64 meta l4proto tcp reject with tcp reset\n\
         \x20   ip daddr 10.96.0.0/16 reject\n\
         \x20   ip6 daddr fd00:96::/64 reject\n  }}\n\
         \x20 chain forward {{ type filter hook forward priority filter; jump refuse; }}\n\
         \x20 chain local {{ type filter hook output priority filter; jump refuse; }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_port_spreads_over_its_endpoints_and_one_without_is_left_to_the_refusal() {
        let with = VirtualPort {
            address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
            protocol: "tcp",
            port: 80,
            endpoints: vec![
                (IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2)), 8080),
                (IpAddr::V4(Ipv4Addr::new(10, 244, 0, 3)), 8080),
            ],
        };
        let without = VirtualPort {
            address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2)),
            endpoints: Vec::new(),
            ..with.clone()
        };
        let rules = service_proxy_rules(&[with, without]);
        assert!(rules.contains(
            "ip daddr 10.96.0.1 tcp dport 80 dnat ip addr . port to numgen random mod 2 map \
             { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8080 }"
        ));
        assert!(!rules.contains("10.96.0.2"));
    }
}
