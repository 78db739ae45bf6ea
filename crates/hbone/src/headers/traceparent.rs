//! `traceparent`: an id shared by the log lines of both ends (W3C trace context).

use std::fmt;

use http::HeaderValue;

/// A trace id and a span id; the flags are always 00 here, for nothing is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    pub trace: u128,
    pub span: u64,
}

impl Traceparent {
    /// A new trace. The ids only tell flows apart, so they need not be unguessable.
    pub fn random() -> Self {
        Self {
            trace: rand::random_range(1..=u128::MAX),
            span: rand::random_range(1..=u64::MAX),
        }
    }

    /// Reads `00-TRACE-SPAN-FLAGS`; nothing when it is another version or malformed.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        if parts.next()? != "00" {
            return None;
        }
        let trace = hex(parts.next()?, 32)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        hex(parts.next()?, 2)?;
        // The specification forbids all-zero ids and, in version 00, anything more.
        (parts.next().is_none() && trace != 0 && span != 0).then_some(Self { trace, span })
    }

    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

fn hex(digits: &str, len: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != len || !digits.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

impl fmt::Display for Traceparent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{:032x}-{:016x}-00", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_example_of_the_specification() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = Traceparent::parse(text).expect("valid");
        assert_eq!(parsed.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parsed.span, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(parsed.to_string(), text.replace("-01", "-00"));
    }

    #[test]
    fn refuses_zero_ids_and_other_versions() {
        for text in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "",
        ] {
            assert_eq!(Traceparent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn random_ids_differ_and_parse() {
        let (one, two) = (Traceparent::random(), Traceparent::random());
        assert_ne!(one, two);
        assert_eq!(Traceparent::parse(&one.to_string()), Some(one));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,64}", hexish in "00-[0-9a-f]{30,33}-[0-9a-f]{15,17}-..?") {
            Traceparent::parse(&text);
            Traceparent::parse(&hexish);
        }
    }
}
