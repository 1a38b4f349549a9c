//! Words that tell what a full stop is: abbreviations before it and starters of sentences after it.
//!
//! English, and the most common of German, French and Spanish.

/// A full stop after one of these never ends a sentence.
pub(super) const TITLES: &[&str] = &[
    "Dr", "Drs", "Mr", "Mrs", "Ms", "Messrs", "Prof", "St", "Ste", "Rev", "Hon", "Sen", "Rep",
    "Gov", "Gen", "Col", "Capt", "Cmdr", "Lt", "Maj", "Sgt", "Pres", "Supt", "Mt", "Ft", "vs",
    "cf", "viz", "ca", "approx", "e.g", "i.e", "c.f", "Hr", "Fr", "Frl", "bzw", "ggf", "vgl",
    "evtl", "insb", "bspw", "z.B", "d.h", "i.d.R", "Mme", "Mlle", "MM", "p.ex", "Sra", "Srta",
    "Dra", "Ud", "Uds", "p.ej",
];

/// The same if a number follows.
pub(super) const NUMBERED: &[&str] = &[
    "No", "Nos", "Nr", "Fig", "Figs", "Vol", "Vols", "Ch", "Chap", "Sec", "Eq", "Art", "Op", "p",
    "pp", "pág", "n", "Abb", "Kap", "Bd", "S", "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug",
    "Sep", "Sept", "Oct", "Nov", "Dec",
];

/// The same unless a word follows that mostly starts sentences; so it is with initials and `U.S.`
pub(super) const EITHER: &[&str] = &[
    "etc", "Inc", "Ltd", "Co", "Corp", "Jr", "Sr", "Bros", "al", "usw", "usf", "av", "bd", "Fig",
    "Figs", "Vol", "pp", "Ave", "Blvd", "Rd", "ed", "eds", "est", "dept", "Univ", "resp",
];

/// Words that mostly start sentences.
pub(super) const STARTERS: &[&str] = &[
    "The", "He", "She", "It", "They", "We", "You", "I", "In", "A", "An", "This", "That", "These",
    "Those", "But", "And", "Or", "So", "If", "When", "While", "At", "On", "For", "From", "To",
    "As", "There", "Here", "My", "His", "Her", "Our", "Their", "Its", "What", "Who", "Why", "How",
    "Where", "Then", "Yet", "Not", "Now", "One", "Some", "All", "After", "Before", "However",
    "Also", "Because", "Since", "With", "By", "Is", "Are", "Was", "Were", "Do", "Did", "Does",
    "Der", "Die", "Das", "Ein", "Eine", "Er", "Sie", "Es", "Wir", "Ich", "Und", "Aber", "Le", "La",
    "Les", "Il", "Elle", "Un", "Une", "Et", "El", "Los", "Las",
];

/// After these a German date goes on: `am 3. Oktober`.
pub(super) const MONTHS: &[&str] = &[
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
];
