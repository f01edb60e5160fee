"A registry with one parser of tool calls: `name: arguments` after [CALL], which needs the special tokens in the text."
from types import SimpleNamespace as NS

class BracketParser:
    def __init__(self, tokenizer, tools):
        self.names = [tool['function']['name'] for tool in tools]

    def adjust_request(self, request):
        request.skip_special_tokens = False
        return request

    def extract_tool_calls(self, text, request):
        content, *calls = text.split('[CALL]')
        split = [call.partition(':') for call in calls]
        known = [(name.strip(), given.strip()) for name, _, given in split if name.strip() in self.names]
        found = [NS(id=f'call-{i}', type='function', function=NS(name=name, arguments=given))
                 for i, (name, given) in enumerate(known)]
        return NS(tools_called=bool(found), tool_calls=found, content=content if found else text)

class ToolParserManager:
    @classmethod
    def get_tool_parser(cls, name):
        if name != 'bracket':
            raise KeyError(f"Tool parser '{name}' not found.")
        return BracketParser
