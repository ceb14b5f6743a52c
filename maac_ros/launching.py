"""Launch actions of a :class:`maac_ros.graph.Graph`. The only module that imports ``launch``."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from maac_ros.graph import Argument, Graph, ResolvedNode, resolve


def launch_description(graph: Graph) -> LaunchDescription:
    """Declare the arguments of ``graph``; its nodes follow once their values are known."""

    def nodes(context: LaunchContext) -> list[Node]:
        given = {
            argument.name: LaunchConfiguration(argument.name).perform(context)
            for argument in graph.arguments
        }
        return [_node(node) for node in resolve(graph, given)]

    return LaunchDescription(
        [*(_declaration(argument) for argument in graph.arguments), OpaqueFunction(function=nodes)]
    )


def _declaration(argument: Argument) -> DeclareLaunchArgument:
    boolean = isinstance(argument.default, bool)
    return DeclareLaunchArgument(
        argument.name,
        # None marks an argument that must be given.
        default_value=None if argument.required else argument.default_text,
        description=argument.description,
        choices=["true", "false", "True", "False"] if boolean else list(argument.choices) or None,
    )


def _stop_on_failure(event: ProcessExited, _: LaunchContext) -> Shutdown | None:
    """A simulator without its policy node would wait for ever."""
    return Shutdown(reason=f"{event.process_name} failed") if event.returncode else None


def _node(node: ResolvedNode) -> Node:
    return Node(
        package="maac_ros",
        executable=node.executable,
        name=node.executable,
        namespace=node.namespace,
        # With a type, a string that looks like a number stays a string.
        parameters=[
            {
                key: ParameterValue(value, value_type=type(value))
                for key, value in node.parameters.items()
            },
            *([node.params_file] if node.params_file else []),
        ],
        remappings=list(node.remappings.items()),
        ros_arguments=[
            *("--log-level", node.log_level),
            *(("--enclave", node.enclave) if node.enclave else ()),
        ],
        output="screen",
        on_exit=Shutdown() if node.ends_graph else _stop_on_failure,
    )
