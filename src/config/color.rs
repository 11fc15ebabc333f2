//! A colour as an operator writes it, and whether words on it can be read.

use std::fmt;

/// An sRGB colour, `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color([u8; 3]);

impl Color {
    pub const WHITE: Self = Self([255; 3]);
    pub const BLACK: Self = Self([0; 3]);
    /// What buttons have where nothing is set.
    pub const DEFAULT: Self = Self([0x1d, 0x4e, 0xd8]);

    /// Reads `#` and six hexadecimal digits: what every mail program understands.
    pub fn parse(raw: &str) -> Option<Self> {
        let digits = raw.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        let mut channels = [0; 3];
        for (channel, pair) in channels.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            // The number's own parser takes a sign.
            let is_hex = pair.bytes().all(|b| b.is_ascii_hexdigit());
            *channel = u8::from_str_radix(pair, 16).ok().filter(|_| is_hex)?;
        }
        Some(Self(channels))
    }

    /// White or black, whichever is read better on this colour. The worst colours for it are those
    /// on which both have 4.58:1, so one of the two always has WCAG's 4.5:1.
    #[must_use]
    pub fn of_words_on_it(self) -> Self {
        if self.contrast(Self::WHITE) >= self.contrast(Self::BLACK) {
            Self::WHITE
        } else {
            Self::BLACK
        }
    }

    /// The edge of a button of this colour on white, where a pale one would be words alone.
    #[must_use]
    pub fn of_its_edge(self) -> Self {
        const GREY: Color = Color([0x76; 3]);
        if self.contrast(Self::WHITE) < 3.0 { GREY } else { self }
    }

    /// WCAG 2.2's contrast ratio, from 1 to 21.
    pub fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// WCAG 2.2's relative luminance.
    fn luminance(self) -> f64 {
        let linear = |channel: u8| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let [red, green, blue] = self.0.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_is_a_number_sign_and_six_digits() {
        assert_eq!(Color::parse("#1D4ed8"), Some(Color::DEFAULT));
        assert_eq!(Color::DEFAULT.to_string(), "#1d4ed8");
        for bad in ["", "#", "1d4ed8", "#1d4ed", "#1d4ed8ff", "#fff", "blue", "#+d4ed8", "#ä4ed8"]
        {
            assert_eq!(Color::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn contrast_is_the_one_of_wcag() {
        assert!((Color::WHITE.contrast(Color::BLACK) - 21.0).abs() < 1e-9);
        // A published pair: the lightest grey that may hold words on white.
        let grey = Color::parse("#767676").expect("a colour");
        assert!((grey.contrast(Color::WHITE) - 4.54).abs() < 0.01);
    }

    #[test]
    fn on_every_colour_the_words_have_the_contrast_that_wcag_asks_for() {
        let steps = || (0..=255).step_by(5);
        for (red, green, blue) in steps()
            .flat_map(|red| steps().flat_map(move |green| steps().map(move |b| (red, green, b))))
        {
            let color = Color([red, green, blue]);
            assert!(color.contrast(color.of_words_on_it()) >= 4.5, "{color}");
        }
    }
}
