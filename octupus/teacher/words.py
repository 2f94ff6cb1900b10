"""How refusals, self-introductions and requests sound, in English and Chinese, as patterns with bounded repetition."""

from __future__ import annotations

import re


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_CANNOT = r"(?:can(?:'|’)?t|cannot|can not|unable|not able|won(?:'|’)t|not (?:going|allowed|permitted))"
_DO = (
    r"(?:assist|help|provide|comply|fulfil|answer|do that|generate|create|write|support|discuss|continue|engage|share|"
    r"give|respond|complete|access|browse|translate)"
)
_SORRY = r"(?:sorry|apologi[sz]e|apologies|afraid|unfortunately)"
_DECLINE = r"(?:can(?:'|’)?t|cannot|can not|am unable to|am not able to|won(?:'|’)t|must decline to|have to decline to)"
_BU = r"(?:无法|不能|不可以|没办法|没有办法|不便)"

REFUSAL = _any_of(
    rf"\b{_SORRY}\b[^.!?\n]{{0,60}}\b{_CANNOT}\b[^.!?\n]{{0,40}}\b{_DO}",
    rf"^\W*(?:I|we)(?: really| simply)? {_DECLINE}[^.!?\n]{{0,30}}\b{_DO}",
    rf"\bas an (?:AI|artificial intelligence)\b[^.!?\n]{{0,60}}\b(?:{_CANNOT}|do not|don(?:'|’)t)\b",
    rf"(?:抱歉|对不起|不好意思|很遗憾)[^。！？\n]{{0,20}}{_BU}",
    rf"^\W*我{_BU}(?:为您|为你|帮助|帮您|帮你|提供|协助|满足|回答|生成|完成)",
    rf"作为(?:一个|一名|一款)?(?:人工智能|AI|语言模型|大语言模型)[^。！？\n]{{0,30}}(?:{_BU}|没有)",
)

_MODELS = (
    r"(?:Qwen|Tongyi|ChatGPT|GPT-?[345]\w*|Claude|Gemini|Bard|Llama|Mistral|DeepSeek|通义千问|千问|文心一言|豆包|Kimi)"
)
_MAKERS = (
    r"(?:Alibaba(?: Cloud)?|OpenAI|Anthropic|Google|Meta(?: AI)?|DeepSeek|Mistral AI|阿里云|阿里巴巴|百度|字节跳动|"
    r"月之暗面)"
)
_MADE = r"\b(?:made|created|developed|trained|built)\b"

NAMES_ITSELF = _any_of(
    rf"\b(?:I am|I(?:'|’)m|my name is|call me)\b[^.!?\n]{{0,30}}{_MODELS}",
    rf"\b(?:as|being) {_MODELS}\s*,\s*I\b",
    rf"\bI (?:was|am|have been)\b[^.!?\n]{{0,30}}{_MADE}[^.!?\n]{{0,15}}\bby {_MAKERS}",
    rf"\b(?:AI|language model|assistant)\b[^.!?\n]{{0,30}}{_MADE} by {_MAKERS}",
    rf"我(?:是|叫|名叫)[^。！？\n]{{0,12}}{_MODELS}",
    rf"我(?:是)?由?[^。！？\n]{{0,6}}{_MAKERS}[^。！？\n]{{0,10}}(?:开发|研发|训练|创建|推出)",
    rf"作为{_MODELS}",
)

OTHER_LANGUAGE = _any_of(
    r"translat|in (?:english|chinese|mandarin)|english|chinese|mandarin|pinyin|bilingual",
    "翻译|翻譯|译成|译为|英文|英语|英語|中文|汉语|漢語|双语|拼音",
)
"""A prompt that says so may be answered in another language than its own."""

AT_LENGTH = _any_of(
    r"\b(?:explain|describe|essay|article|story|discuss|in detail|detailed|step[- ]by[- ]step|elaborate|compare)\b",
    r"\b(?:summari[sz]e|outline)\b",
    r"\bwrite (?:a|an) (?:letter|email|e-mail|report|poem|blog|review|speech|function|program|script)\b",
    "详细|解释|说明|描述|介绍|作文|文章|故事|论述|步骤|写一[篇封首段个]|分析",
)
BRIEF = _any_of(
    r"\b(?:one|single|two|a few) (?:word|sentence|letter|line)|\bbrief|\bshort(?:ly)?\b|yes or no|true or false",
    r"only the|just the|一个词|一个字|一句话|简短|简要|简单|只(?:需|要|回答)|是或否|是否",
)
