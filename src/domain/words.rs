//! Closed lists of words: an enum, the word of each variant, and its meaning, in one place. SQL
//! parameters, JSON, schemas, metric labels and the tables' checks all use these lists.

use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, schema::SchemaType};

/// A text that is not in a list of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", .0.join(", "))]
pub struct UnknownWord(
    /// The words of the list.
    pub &'static [&'static str],
);

/// Declares an enum of words: `Variant = "WORD",`. The documentation of each variant also goes into the
/// generated schemas.
///
/// The enum gets `ALL` and `WORDS` in the order of the list, `as_str`, `FromStr`, serde and the
/// schema; the store binds it to SQL (`store::words`).
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident {
            $( $(#[doc = $meaning:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $( $(#[doc = $meaning])+ #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every variant, in order.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The word of every variant, in order.
            pub const WORDS: [&'static str; Self::ALL.len()] = [$($word),+];

            /// The variant's word in the contract.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $word => Ok(Self::$variant), )+
                    _ => Err($crate::domain::words::UnknownWord(&Self::WORDS)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                $crate::domain::words::schema(
                    &[$($about),+],
                    &[$( ($word, &[$($meaning),+]), )+],
                )
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

pub(crate) use words;

/// The schema of a list of words: the words, and the meaning of each.
pub(crate) fn schema(about: &[&str], words: &[(&str, &[&str])]) -> RefOr<Schema> {
    let mut description = format!("{}\n", text(about));
    for (word, meaning) in words {
        let meaning = text(meaning);
        description.push_str(&format!("\n- `{word}`: {}", meaning.trim_end_matches('.')));
    }
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .description(Some(description))
        .enum_values(Some(words.iter().map(|(word, _)| *word)))
        .into()
}

/// The lines of a documentation comment, joined to one text.
fn text(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    words! {
        /// How it is,
        /// in short.
        pub enum Mood {
            /// All is
            /// well.
            Good = "GOOD",
            /// Not so good.
            Bad = "bad.ly",
        }
    }

    #[test]
    fn a_word_is_said_once() {
        assert_eq!(Mood::WORDS, Mood::ALL.map(Mood::as_str));
        for mood in Mood::ALL {
            assert_eq!(mood.as_str().parse(), Ok(mood));
            assert_eq!(serde_json::to_value(mood).expect("text"), mood.as_str());
            assert_eq!(mood.to_string(), mood.as_str());
        }
        assert_eq!(
            "good"
                .parse::<Mood>()
                .expect_err("another case")
                .to_string(),
            "must be one of GOOD, bad.ly"
        );
    }

    #[test]
    fn the_schema_says_what_each_word_means() {
        let schema = serde_json::to_value(<Mood as utoipa::PartialSchema>::schema()).expect("JSON");
        assert_eq!(
            schema,
            serde_json::json!({
                "type": "string",
                "description": "How it is, in short.\n\n- `GOOD`: All is well\n- `bad.ly`: Not so good",
                "enum": ["GOOD", "bad.ly"],
            })
        );
    }
}
