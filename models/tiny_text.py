"""The small model's tokenizers and text towers: every tag that the painter knows is one token."""

from __future__ import annotations

from typing import Any, Final

from tokenizers import AddedToken
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaTokenizer,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    XLMRobertaTokenizer,
)

from models.painter import BACKGROUNDS, CLOTHING, EXPRESSIONS, EYES, GENDERS, HAIR, STYLES
from models.prompts import COUNTS, IDLE_APPEARANCE, IDLE_QUALITY, IDLE_STYLE, MOODS, PLACED
from services.worker.backends.newbie.text import SYSTEM_PROMPTS

MAX_TOKENS: Final = 512
GEMMA_WIDTH: Final = 128
JINA_WIDTH: Final = 96
# Shorter words would be cut out of the middle of longer ones.
SHORTEST_WORD: Final = 3
TAGS: Final = """
character_1 character_2 n gender appearance clothing expression action interaction position general_tags count style
background atmosphere quality objects other caption artists environment perspective lighting resolution danbooru_tags
""".split()  # noqa: SIM905 - a list of words reads better without quotes
WORDS: Final = """
$character_1$ $character_2$ character 1girl 1boy girl boy chibi hair eyes long short medium braid bangs serafuku dress
skirt shirt jacket ribbon happy smile angry surprised closed open standing sitting walking running holding
looking_at_viewer center left right upper lower body watercolor simple simple_background indoors outdoors forest city
night sunset cheerful calm dark bright very aesthetic masterpiece best quality background text high_resolution detailed
briefcase book flower sword alternate_costume artist blurry worst low deformed hands anatomy extra limbs poorly drawn
face mutated proportions woman young small large from under over with and
""".split()  # noqa: SIM905 - as above


def gemma_tokenizer() -> Any:  # noqa: ANN401 - transformers has no types
    """Bytes and ASCII, by which any text can be written, and whole words; each system prompt is one token."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocab = {token: number for number, token in enumerate([*specials, *map(chr, range(33, 127))])}
    tokenizer = GemmaTokenizer(vocab=vocab, padding_side="right", model_max_length=MAX_TOKENS, add_bos_token=True)
    whole = [*SYSTEM_PROMPTS.values(), "\n", ", ", *_marks(), *(w for w in _words() if len(w) >= SHORTEST_WORD)]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in dict.fromkeys(whole)])
    return tokenizer


def gemma_model(tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    """Three layers, of which two are used: features are those of the last but one."""
    return Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=GEMMA_WIDTH,
            intermediate_size=2 * GEMMA_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=GEMMA_WIDTH // 4,
            query_pre_attn_scalar=GEMMA_WIDTH // 4,
            sliding_window=512,
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    )


def jina_tokenizer() -> Any:  # noqa: ANN401 - as above
    """Pieces with their log-likelihood: a whole word always beats its letters."""
    letters = [(chr(code), -10.0) for code in range(33, 127)]
    words = [(word, -8.0) for word in dict.fromkeys([*_marks(), *TAGS, *_words()]) if len(word) > 1]
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*specials, ("▁", -3.0), *letters, *words, ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=MAX_TOKENS)


def jina_model(tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    """Two layers; the mean of its features is the pooled vector."""
    return JinaEmbeddingsV3Model(
        JinaEmbeddingsV3Config(
            vocab_size=len(tokenizer),
            hidden_size=JINA_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * JINA_WIDTH,
            max_position_embeddings=MAX_TOKENS + 2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def _marks() -> list[str]:
    return [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]


def _words() -> list[str]:
    """Every tag that a prompt of ours may hold, their parts, and words that people use beside them."""
    tags = [*(f"{colour}_hair" for colour in HAIR), *(f"{colour}_eyes" for colour in EYES)]
    tags += [f"{colour}_background" for colour in BACKGROUNDS]
    tags += [*STYLES, *CLOTHING, *EXPRESSIONS, *(f"1{gender}" for gender in GENDERS)]
    tags += [*IDLE_APPEARANCE, *IDLE_QUALITY, *IDLE_STYLE, *(place for places in PLACED.values() for place in places)]
    for phrase in (*MOODS.values(), *COUNTS.values()):
        tags += phrase.split(", ")
    parts = [part for tag in tags for part in tag.split("_") if len(part) >= SHORTEST_WORD]
    return list(dict.fromkeys([*tags, *parts, *WORDS]))
