//! Addresses and ports as both sides keep them: network byte order, one width for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::plain_bytes;

/// Third word of an IPv4-mapped address, `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// A 16-byte address in network byte order; IPv4 stands as `::ffff:a.b.c.d`.
///
/// Kept as words, since the verifier refuses byte stores to `user_ip6`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Addr {
    /// The four words, each in network byte order.
    pub words: [u32; 4],
}
plain_bytes!(Addr, 16);

/// Address family of packets; a v4-mapped destination is [`Family::V4`] on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4, also when a v6 socket dials a mapped address.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// 4 or 6, as map keys hold it.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl Addr {
    /// `::`, the address part of a port-wide service entry.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `::ffff:127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1]));
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self {
        words: [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])],
    };

    /// From an IPv4 address as the hooks hold it, in network byte order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// From any IP address; a mapped IPv6 address stays what it is.
    pub const fn from_ip(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        let mut word = 0;
        while word < 4 {
            let at = word * 4;
            words[word] =
                u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            word += 1;
        }
        Self { words }
    }

    /// Back to an IP address; mapped ones become IPv4.
    pub const fn to_ip(self) -> IpAddr {
        if matches!(self.family(), Family::V4) {
            let [a, b, c, d] = self.words[3].to_ne_bytes();
            return IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        }
        let mut bytes = [0; 16];
        let mut at = 0;
        while at < 16 {
            bytes[at] = self.words[at / 4].to_ne_bytes()[at % 4];
            at += 1;
        }
        IpAddr::V6(Ipv6Addr::from_octets(bytes))
    }

    /// Family of the packets that this address gets.
    #[inline(always)]
    pub const fn family(self) -> Family {
        if self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// What kind of address this is, as far as capture cares.
    #[inline(always)]
    pub const fn class(self) -> AddrClass {
        match self.family() {
            Family::V4 => {
                let [first, second, ..] = self.words[3].to_ne_bytes();
                match first {
                    _ if self.words[3] == 0 => AddrClass::Unspecified,
                    127 => AddrClass::Loopback,
                    169 if second == 254 => AddrClass::LinkLocal,
                    // Multicast, and 255.255.255.255 beside it.
                    224..=239 => AddrClass::Multicast,
                    255 if self.words[3] == u32::MAX => AddrClass::Multicast,
                    _ => AddrClass::Unicast,
                }
            }
            Family::V6 => {
                if self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 {
                    if self.words[3] == 0 {
                        return AddrClass::Unspecified;
                    }
                    if self.words[3] == Self::LOOPBACK_V6.words[3] {
                        return AddrClass::Loopback;
                    }
                }
                let [first, second, ..] = self.words[0].to_ne_bytes();
                match first {
                    0xff => AddrClass::Multicast,
                    0xfe if second & 0xc0 == 0x80 => AddrClass::LinkLocal,
                    _ => AddrClass::Unicast,
                }
            }
        }
    }

    /// Whether a socket that listens on the family's loopback address answers here: that address
    /// itself, and the unspecified one, which the kernel turns into it.
    #[inline(always)]
    pub const fn reaches_loopback(self) -> bool {
        match self.family() {
            Family::V4 => self.words[3] == 0 || self.words[3] == Self::LOOPBACK_V4.words[3],
            Family::V6 => {
                self.words[0] == 0
                    && self.words[1] == 0
                    && self.words[2] == 0
                    && (self.words[3] == 0 || self.words[3] == Self::LOOPBACK_V6.words[3])
            }
        }
    }
}

/// See [`Addr::class`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddrClass {
    /// `0.0.0.0` or `::`: the kernel dials loopback.
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// `169.254.0.0/16` or `fe80::/10`.
    LinkLocal,
    /// `224.0.0.0/4`, the broadcast address or `ff00::/8`.
    Multicast,
    /// Everything else.
    Unicast,
}

/// A port in network byte order, as the hooks hand it over.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PortBe(pub u16);
plain_bytes!(PortBe, 2);

impl PortBe {
    /// From a port in host order.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// To host order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// Whether no port is named.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from_ip(text.parse().expect("an address"))
    }

    #[test]
    fn addresses_survive_the_round_trip_and_mapped_ones_are_v4() {
        for (text, family, back) in [
            ("10.1.2.3", Family::V4, "10.1.2.3"),
            ("::ffff:10.1.2.3", Family::V4, "10.1.2.3"),
            ("2001:db8::7", Family::V6, "2001:db8::7"),
            ("::1", Family::V6, "::1"),
        ] {
            assert_eq!(addr(text).family(), family, "{text}");
            assert_eq!(addr(text).to_ip().to_string(), back, "{text}");
        }
        assert_eq!(PortBe::from_host(80).to_host(), 80);
    }

    #[test]
    fn classes_follow_the_special_purpose_ranges() {
        for (text, class) in [
            ("0.0.0.0", AddrClass::Unspecified),
            ("::", AddrClass::Unspecified),
            ("127.9.9.9", AddrClass::Loopback),
            ("::ffff:127.0.0.1", AddrClass::Loopback),
            ("::1", AddrClass::Loopback),
            ("169.254.169.254", AddrClass::LinkLocal),
            ("169.253.0.1", AddrClass::Unicast),
            ("fe80::1", AddrClass::LinkLocal),
            ("febf::1", AddrClass::LinkLocal),
            ("fec0::1", AddrClass::Unicast),
            ("224.0.0.1", AddrClass::Multicast),
            ("239.255.255.255", AddrClass::Multicast),
            ("255.255.255.255", AddrClass::Multicast),
            ("240.240.0.1", AddrClass::Unicast), // Istio's auto-allocated range is captured
            ("ff02::1", AddrClass::Multicast),
            ("10.0.0.1", AddrClass::Unicast),
            ("::2", AddrClass::Unicast),
        ] {
            assert_eq!(addr(text).class(), class, "{text}");
        }
    }

    #[test]
    fn only_one_loopback_address_and_the_unspecified_reach_a_loopback_listener() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("0.0.0.0", true),
            ("::", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.0.0.1", false),
            ("::2", false),
        ] {
            assert_eq!(addr(text).reaches_loopback(), expected, "{text}");
        }
    }
}
