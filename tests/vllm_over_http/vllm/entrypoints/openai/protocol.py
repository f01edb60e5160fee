"The request that parsers are shown."

class ChatCompletionRequest:
    def __init__(self, model, messages, tools=None, tool_choice='none'):
        self.tools, self.tool_choice, self.skip_special_tokens = tools, tool_choice, True
