"A registry with one parser of thinking, which takes the tokenizer alone, as older versions do."

class ThinkParser:
    def __init__(self, tokenizer):
        pass

    def extract_reasoning_content(self, text, request):
        thinking, closed, answer = text.partition('</think>')
        return (thinking.replace('<think>', ''), answer) if closed else (None, text)

class ReasoningParserManager:
    @classmethod
    def get_reasoning_parser(cls, name):
        if name != 'think':
            raise KeyError(f"Reasoning parser '{name}' not found.")
        return ThinkParser
