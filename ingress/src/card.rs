//! Recognises what looks like a card number, so that it is refused before anything keeps or repeats it.
//!
//! A guard against accidents (a form field in the wrong place), not against people who hide numbers on purpose.

/// Digits of the shortest and the longest card number.
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// True when the text holds 13 to 19 digits that pass the Luhn check, in one piece anywhere, or in pieces set apart
/// by one space, dash, dot, slash or underscore each and standing free of letters. A UUID is none.
pub(crate) fn looks_like_card(text: &str) -> bool {
    if text.len() < *DIGITS.start() || is_uuid(text) {
        return false;
    }
    let groups = digit_groups(text);
    (0..groups.len()).any(|first| from_group(&groups, first))
}

/// A maximal run of ASCII digits and how it stands in the text.
struct Group<'t> {
    digits: &'t [u8],
    /// One separator, and nothing else, between the group before and this one.
    joined: bool,
    after_letter: bool,
    before_letter: bool,
}

fn from_group(groups: &[Group<'_>], first: usize) -> bool {
    let mut total = 0;
    for (more, group) in groups[first..].iter().enumerate() {
        if more > 0 && (!group.joined || groups[first].after_letter) {
            return false;
        }
        total += group.digits.len();
        if total > *DIGITS.end() {
            return false;
        }
        let free = more == 0 || !group.before_letter;
        if free && DIGITS.contains(&total) && luhn(&groups[first..=first + more]) {
            return true;
        }
    }
    false
}

fn digit_groups(text: &str) -> Vec<Group<'_>> {
    let bytes = text.as_bytes();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let (mut at, mut last_end) = (0, None);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        groups.push(Group {
            digits: &bytes[at..end],
            joined: last_end.is_some_and(|before: usize| is_separator(&text[before..at])),
            after_letter: text[..at].chars().next_back().is_some_and(char::is_alphabetic),
            before_letter: text[end..].chars().next().is_some_and(char::is_alphabetic),
        });
        last_end = Some(end);
        at = end;
    }
    groups
}

fn is_separator(between: &str) -> bool {
    let mut chars = between.chars();
    let one = matches!(
        chars.next(),
        Some(' ' | '-' | '.' | '/' | '_' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2015}')
    );
    one && chars.next().is_none()
}

fn is_uuid(text: &str) -> bool {
    text.len() == uuid::fmt::Hyphenated::LENGTH && uuid::Uuid::try_parse(text).is_ok()
}

fn luhn(groups: &[Group<'_>]) -> bool {
    let digits = groups.iter().flat_map(|group| group.digits).rev();
    let sum: u32 = digits
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            match place % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::looks_like_card;

    #[test]
    fn card_numbers_are_found() {
        for text in [
            "4111111111111111",
            "378282246310005",
            "6011111111111117",
            "30569309025904",
            "4222222222222",
            "6304000000000000000",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "3782 822463 10005",
            "4.1.1.1.1.1.1.1.1.1.1.1.1.1.1.1",
            "card: 4111111111111111 exp 12/27",
            "tok_4111111111111111",
            "tok4111111111111111x",
            "ship to 10 High St, 4111 1111 1111 1111",
            "4111\u{a0}1111\u{a0}1111\u{a0}1111",
            "12 4111111111111111 27",
        ] {
            assert!(looks_like_card(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_not() {
        for text in [
            "",
            "4111111111111112",
            "411111111111",
            "41111111111111110000",
            "tok_visa",
            "85123A",
            "550e8400-e29b-41d4-a716-446655440000",
            "44444444-4444-4444-8444-444444444444",
            "a4111-1111-1111-1111",
            "4111  1111  1111  1111",
            "2010-12-01T08:26:00",
        ] {
            assert!(!looks_like_card(text), "{text}");
        }
    }
}
