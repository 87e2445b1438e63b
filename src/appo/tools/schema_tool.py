"""A tool whose arguments are described by a JSON schema instead of a Python signature.

transformers and TRL take a tool as a function, of which they make a schema, or as the schema. This is the schema, and
can be called, so that nothing which the schema says is lost on its way to the chat template.

Whether a schema allows a value is jsonschema's to say. transformers' `get_json_schema` makes schemas of functions, and
here there is no function, only the schema.

Left out on purpose: checking arguments against the schema, which is for whoever answers the call.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any


class SchemaTool(dict[str, Any]):
    """The dict that `apply_chat_template(tools=[..])` takes, and a function of keyword arguments with any names.

    Args:
        name: Its name, which is `__name__` too.
        description: What it does; may be empty.
        parameters: The JSON schema of its arguments, an object; shown as it is.
        call: Gets the arguments that a caller gave; defaults are not filled in.
    """

    def __init__(
        self, name: str, description: str, parameters: Mapping[str, Any], call: Callable[[dict[str, Any]], Any]
    ) -> None:
        function = {"name": name, "description": description, "parameters": parameters}
        super().__init__(type="function", function=function)
        self.__name__ = self.__qualname__ = name
        self.__doc__ = description
        self._parameters, self._call = parameters, call

    def __call__(self, /, **arguments: Any) -> Any:
        return self._call(arguments)

    # As a function is: equal to itself alone, and its own copy.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> "SchemaTool":
        return self

    def bind(self, arguments: Any) -> dict[str, Any]:
        """Keyword arguments from what the policy wrote.

        A mapping is taken by name. Text goes to the only required argument, or to the first where none is required:
        as it is where the schema allows that, else as the JSON in it. Where several are required, it is a JSON object.

        Raises:
            TypeError, ValueError: with a sentence for the policy.
        """
        properties, required = self._parameters.get("properties"), self._parameters.get("required")
        named = properties if isinstance(properties, Mapping) else {}
        needed = required if isinstance(required, list) else []
        if isinstance(arguments, str):
            text_for = needed or list(named)[:1]
            if len(text_for) == 1:
                arguments = {text_for[0]: self._value(named.get(text_for[0], True), arguments)}
            else:
                arguments = json.loads(arguments) if arguments else {}
        if not isinstance(arguments, Mapping):
            raise TypeError(f"arguments must be a JSON object with {', '.join(dict.fromkeys([*named, *needed]))}")
        for name in needed:
            if name not in arguments:
                raise TypeError(f"missing a required argument: {name!r}")
        return dict(arguments)

    def _value(self, schema: Any, text: str) -> Any:
        """The text, or the value that it writes as JSON where the argument's schema allows that alone."""
        from jsonschema.validators import Draft202012Validator, validator_for  # they come with `mcp`
        from referencing import Registry

        try:
            value = json.loads(text)
            # With a registry of its own it asks no server for schemas that are referred to.
            whole = validator_for(self._parameters, Draft202012Validator)(self._parameters, registry=Registry())
            allows = whole.evolve(schema=schema).is_valid
            return value if allows(value) and not allows(text) else text
        except Exception:  # text that is no JSON, or a schema that is wrong, in which anything may fail
            return text
