"""Operators that every rank computes whole, and why."""

DATA = "the size of its output depends on data"
SEQUENCE = "it is about a sequence of tensors, which has no dims"
OPTIONAL = "it is about a value that may be absent"
STRING = "strings do not travel between ranks"
FLAT = "its indices count the elements of the whole tensor"
DRAWN = "it draws random numbers, which one rank does for all"
MADE = "it is made of sizes, and every rank makes it for itself"

REPLICATED = {
    "AffineGrid": MADE,
    "Bernoulli": DRAWN,
    "BlackmanWindow": MADE,
    "ConcatFromSequence": SEQUENCE,
    "EyeLike": MADE,
    "HammingWindow": MADE,
    "HannWindow": MADE,
    "ImageDecoder": "it reads one encoded image",
    "MaxUnpool": FLAT,
    "MelWeightMatrix": MADE,
    "Multinomial": DRAWN,
    "NonMaxSuppression": DATA,
    "NonZero": DATA,
    "Optional": OPTIONAL,
    "OptionalGetElement": OPTIONAL,
    "OptionalHasElement": OPTIONAL,
    "RandomNormal": DRAWN,
    "RandomNormalLike": DRAWN,
    "RandomUniform": DRAWN,
    "RandomUniformLike": DRAWN,
    "RegexFullMatch": STRING,
    "SequenceAt": SEQUENCE,
    "SequenceConstruct": SEQUENCE,
    "SequenceEmpty": SEQUENCE,
    "SequenceErase": SEQUENCE,
    "SequenceInsert": SEQUENCE,
    "SequenceLength": SEQUENCE,
    "SequenceMap": SEQUENCE,
    "SplitToSequence": SEQUENCE,
    "StringConcat": STRING,
    "StringNormalizer": STRING,
    "StringSplit": STRING,
    "TfIdfVectorizer": STRING,
    "Unique": DATA,
}
"""Reason by operator of ai.onnx."""
